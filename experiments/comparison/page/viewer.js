"use strict";
// Reconstructions of one image by several codecs: two under a divider, all as tiles, one zoom for
// all, as pictures, absolute errors or maps of a perceptual distance; and a table of the image.

const MAX_ZOOM = 32;

class Viewer {
  constructor(data) {
    this.data = data;
    this.zoom = 1;
    this.center = [0.5, 0.5]; // of the visible part, in shares of the image
    this.split = 50;
    for (const id of ["image", "rate", "left", "right", "show", "viewer", "divider", "tiles"])
      this[id] = document.getElementById(id);
    if (!data.images.length) {
      document.getElementById("pictures").hidden = true;
      return;
    }
    data.images.forEach((image, i) => this.image.add(new Option(image.name, i)));
    this.image.addEventListener("change", () => this.chooseImage());
    this.rate.addEventListener("input", () => this.chooseRate());
    for (const name of ["left", "right", "show"]) this[name].addEventListener("change", () => this.chooseRate());
    if (!data.images.some((image) => image.map_scale !== null)) this.show.querySelector("[value=map]").remove();
    document.getElementById("zoom-in").addEventListener("click", () => this.zoomBy(1.5));
    document.getElementById("zoom-out").addEventListener("click", () => this.zoomBy(1 / 1.5));
    document.getElementById("zoom-reset").addEventListener("click", () => this.fit());
    this.divider.addEventListener("keydown", (event) => this.onDividerKey(event));
    this.dragDivider();
    this.follow(this.viewer);
    new ResizeObserver(() => this.place()).observe(this.viewer);
    this.chooseImage();
  }

  get current() { return this.data.images[Number(this.image.value)]; }

  chooseImage() {
    const image = this.current;
    this.rates = [...new Set(image.items.map((item) => item.bpp))].sort((a, b) => a - b);
    this.rate.max = this.rates.length - 1;
    this.rate.value = this.rates.indexOf(this.commonRate());
    const curves = [...new Set(image.items.map((item) => item.curve))].sort((a, b) => a - b);
    for (const [side, fallback] of [["left", "original"], ["right", String(curves[0])]]) {
      const before = this[side].value, select = this[side];
      select.replaceChildren(new Option("original", "original"));
      for (const curve of curves) select.add(new Option(this.data.curves[curve].label, curve));
      const known = [...select.options].some((option) => option.value === before);
      select.value = known ? before : fallback;
    }
    this.curves = curves;
    this.viewer.style.aspectRatio = `${image.width} / ${image.height}`;
    this.viewer.style.maxWidth = `${85 * image.width / image.height}vh`; // all of it on the screen
    this.buildTiles();
    this.fit();
    this.chooseRate();
  }

  // The rate to which every codec has a point as near as can be.
  commonRate() {
    const gap = (rate) => Math.max(...[...new Set(this.current.items.map((item) => item.curve))]
      .map((curve) => Math.abs(Math.log(this.nearest(curve, rate).bpp / rate))));
    return this.rates.reduce((best, rate) => (gap(rate) < gap(best) ? rate : best));
  }

  nearest(curve, rate) {
    return this.current.items.filter((item) => item.curve === curve).reduce((best, item) =>
      Math.abs(Math.log(item.bpp / rate)) < Math.abs(Math.log(best.bpp / rate)) ? item : best);
  }

  chosen(curve) { return this.nearest(Number(curve), this.rates[Number(this.rate.value)]); }

  picture(choice) {
    if (choice === "original") return { src: this.current.original, caption: "original" };
    const item = this.chosen(choice);
    const psnr = item.psnr === null ? "" : `, ${item.psnr.toFixed(2)} dB`;
    return { src: this.show.value === "map" && item.map ? item.map : item.src,
      caption: `${this.data.curves[item.curve].label}, ${item.bpp.toFixed(3)} bpp${psnr}` };
  }

  // Put a picture into a layer, as it is or as the difference to the original behind it. The original
  // is always shown as it is.
  fill(layer, choice) {
    const { src, caption } = this.picture(choice), img = layer.querySelector("img");
    const gain = choice === "original" ? 0 : Number(this.show.value); // NaN: no error
    img.src = src;
    img.alt = `${this.current.name}: ${caption}`;
    layer.classList.toggle("error", gain > 0);
    layer.style.backgroundImage = gain > 0 ? `url("${this.current.original}")` : "none";
    layer.style.filter = gain > 0 ? `brightness(${gain})` : "none";
    return caption;
  }

  chooseRate() {
    const rate = this.rates[Number(this.rate.value)].toFixed(3);
    document.getElementById("rate-value").textContent = `${rate} bpp`;
    this.rate.setAttribute("aria-valuetext", `${rate} bits per pixel`);
    for (const side of ["left", "right"]) {
      const caption = this.fill(document.getElementById(`${side}-layer`), this[side].value);
      document.getElementById(`${side}-label`).textContent = caption;
    }
    for (const tile of this.tiles.children) {
      tile.querySelector("figcaption").textContent = this.fill(tile.querySelector(".layer"), tile.dataset.choice);
      tile.querySelector(".pane").classList.toggle("chosen", tile.dataset.choice === this.right.value);
    }
    const scale = document.getElementById("map-scale");
    scale.hidden = this.show.value !== "map" || this.current.map_scale === null;
    if (!scale.hidden) scale.textContent =
      `ST-LPIPS per pixel on a square-root scale, from 0 (black) to ${short(this.current.map_scale)} (yellow) for all codecs and rates.`;
    this.fillTable();
    this.place();
  }

  // A row per codec at the chosen rate, with what was measured on this image.
  fillTable() {
    const items = this.curves.map((curve) => this.chosen(curve));
    const metrics = this.data.imageMetrics.filter(({ key }) => items.some((item) => key in item.metrics));
    const best = new Map(metrics.filter(({ better }) => better).map(({ key, better }) =>
      [key, Math.max(...items.filter((item) => key in item.metrics).map((item) => better * item.metrics[key])) * better]));
    const cell = (kind, text, bold) => {
      const node = document.createElement(kind);
      node.textContent = text;
      node.classList.toggle("best", Boolean(bold));
      return node;
    };
    const table = document.getElementById("image-table"), head = document.createElement("tr");
    head.append(...["curve", "point", ...metrics.map(({ heading }) => heading)].map((text) => cell("th", text)));
    const rows = items.map((item) => {
      const row = document.createElement("tr");
      row.append(cell("td", this.data.curves[item.curve].label), cell("td", item.point), ...metrics.map(({ key }) => {
        const value = item.metrics[key];
        return cell("td", value === undefined ? "" : short(value), items.length > 1 && value === best.get(key));
      }));
      return row;
    });
    table.replaceChildren(table.caption, head, ...rows);
    table.caption.textContent = `${this.current.name} at about ${this.rates[Number(this.rate.value)].toFixed(3)} bpp`;
  }

  buildTiles() {
    this.tiles.replaceChildren(...["original", ...this.curves].map((choice) => {
      const figure = document.createElement("figure"), pane = document.createElement("div");
      const layer = document.createElement("div"), img = document.createElement("img");
      figure.dataset.choice = choice;
      layer.className = "layer";
      pane.className = "pane";
      pane.tabIndex = 0;
      pane.setAttribute("role", "button");
      pane.style.aspectRatio = this.viewer.style.aspectRatio;
      img.draggable = false;
      layer.append(img);
      pane.append(layer);
      figure.append(pane, document.createElement("figcaption"));
      this.follow(pane, () => { this.right.value = String(choice); this.chooseRate(); });
      return figure;
    }));
  }

  fit() { this.zoom = 1; this.center = [0.5, 0.5]; this.place(); }

  // Zoom so that the point at (u, v), in shares of a pane, stays where it is.
  zoomBy(factor, u = 0.5, v = 0.5) {
    const zoom = Math.max(1, Math.min(MAX_ZOOM, this.zoom * factor));
    const shift = 1 / this.zoom - 1 / zoom;
    this.center = [this.center[0] + (u - 0.5) * shift, this.center[1] + (v - 0.5) * shift];
    this.zoom = zoom;
    this.place();
  }

  moveBy(du, dv) {
    this.center = [this.center[0] + du / this.zoom, this.center[1] + dv / this.zoom];
    this.place();
  }

  place() {
    const half = 0.5 / this.zoom;
    this.center = this.center.map((value) => Math.max(half, Math.min(1 - half, value)));
    for (const pane of document.querySelectorAll(".pane")) {
      const { clientWidth: width, clientHeight: height } = pane;
      const left = width * (0.5 - this.center[0] * this.zoom);
      const top = height * (0.5 - this.center[1] * this.zoom);
      for (const layer of pane.querySelectorAll(".layer")) {
        layer.style.width = `${width}px`;
        layer.style.height = `${height}px`;
        layer.style.transform = `translate(${left}px, ${top}px) scale(${this.zoom})`;
      }
      pane.classList.toggle("zoomed", this.zoom > 1);
      pane.classList.toggle("pixels", this.zoom * width > 2 * this.current.width);
    }
    // Clipping is in the layer's own coordinates, before zoom and shift.
    const at = this.viewer.clientWidth * this.split / 100;
    const left = this.viewer.clientWidth * (0.5 - this.center[0] * this.zoom);
    const inside = (at - left) / this.zoom;
    document.getElementById("left-layer").style.clipPath =
      `inset(0 ${this.viewer.clientWidth - inside}px 0 0)`;
    document.getElementById("right-layer").style.clipPath = `inset(0 0 0 ${inside}px)`;
    this.divider.style.left = `${this.split}%`;
    this.divider.setAttribute("aria-valuenow", Math.round(this.split));
    document.getElementById("zoom-value").textContent = `${short(Number(this.zoom.toFixed(1)))}×`;
  }

  setSplit(value) { this.split = Math.max(0, Math.min(100, value)); this.place(); }

  onDividerKey(event) {
    const step = event.shiftKey ? 10 : 2;
    const target = { ArrowLeft: this.split - step, ArrowRight: this.split + step, Home: 0, End: 100 }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    event.stopPropagation(); // arrows in the viewer move the pictures
    this.setSplit(target);
  }

  dragDivider() {
    this.divider.addEventListener("pointerdown", (event) => {
      event.stopPropagation();
      this.divider.setPointerCapture(event.pointerId);
    });
    this.divider.addEventListener("pointermove", (event) => {
      if (!this.divider.hasPointerCapture(event.pointerId)) return;
      const box = this.viewer.getBoundingClientRect();
      this.setSplit(100 * (event.clientX - box.left) / box.width);
    });
  }

  // Pan, pinch, wheel and keys on one pane move all of them.
  follow(pane, onTap) {
    const fingers = new Map();
    let moved = 0;
    pane.addEventListener("pointerdown", (event) => {
      fingers.set(event.pointerId, event);
      moved = 0;
      if (this.zoom > 1 || fingers.size > 1) pane.setPointerCapture(event.pointerId);
    });
    pane.addEventListener("pointermove", (event) => {
      const before = fingers.get(event.pointerId);
      if (!before) return;
      const { width, height, left, top } = pane.getBoundingClientRect();
      const dx = event.clientX - before.clientX, dy = event.clientY - before.clientY;
      moved += Math.abs(dx) + Math.abs(dy);
      if (fingers.size === 2) {
        const [other] = [...fingers.values()].filter((finger) => finger.pointerId !== event.pointerId);
        const distance = (finger) => Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY) || 1;
        this.zoomBy(distance(event) / distance(before),
          ((event.clientX + other.clientX) / 2 - left) / width, ((event.clientY + other.clientY) / 2 - top) / height);
        this.moveBy(-dx / 2 / width, -dy / 2 / height);
      } else if (this.zoom > 1) this.moveBy(-dx / width, -dy / height);
      fingers.set(event.pointerId, event);
    });
    for (const name of ["pointerup", "pointercancel", "pointerleave"])
      pane.addEventListener(name, (event) => fingers.delete(event.pointerId));
    pane.addEventListener("click", () => { if (onTap && moved < 6) onTap(); });
    pane.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !pane.contains(document.activeElement)) return; // the page scrolls
      event.preventDefault();
      const box = pane.getBoundingClientRect();
      this.zoomBy(Math.exp(-event.deltaY / 400), (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    }, { passive: false });
    pane.addEventListener("keydown", (event) => this.onPaneKey(event, onTap));
  }

  onPaneKey(event, onTap) {
    const actions = {
      "+": () => this.zoomBy(1.5), "=": () => this.zoomBy(1.5), "-": () => this.zoomBy(1 / 1.5), "0": () => this.fit(),
      ArrowLeft: () => this.moveBy(-0.1, 0), ArrowRight: () => this.moveBy(0.1, 0),
      ArrowUp: () => this.moveBy(0, -0.1), ArrowDown: () => this.moveBy(0, 0.1),
      Enter: onTap, " ": onTap,
    };
    const action = event.ctrlKey || event.metaKey ? null : actions[event.key];
    if (!action || (event.key.startsWith("Arrow") && this.zoom === 1)) return; // the page scrolls
    event.preventDefault();
    action();
  }
}
