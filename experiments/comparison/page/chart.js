"use strict";
// Curves as SVG, drawn anew at the width that there is, so that text stays readable on a phone.

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes, parent) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (parent) parent.append(node);
  return node;
}

function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e4 || size < 1e-3 ? value.toExponential(1) : String(Number(value.toPrecision(4)));
}

function linearTicks(low, high, count) {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw);
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high * (1 + 1e-12); i++) ticks.push(i * step);
  return ticks;
}

function logTicks(low, high, count) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const digit of [1, 2, 5]) ticks.push(digit * 10 ** power);
  const inside = ticks.filter((tick) => tick >= low && tick <= high);
  return inside.length > 1 ? inside : linearTicks(low, high, count);
}

function scale(values, from, to, logarithmic) {
  let low = Math.min(...values), high = Math.max(...values);
  if (logarithmic) { low /= 1.1; high *= 1.1; } else {
    const margin = (high - low) * 0.05 || Math.abs(high) * 0.05 || 1;
    low -= margin; high += margin;
  }
  const warp = logarithmic ? Math.log : (value) => value;
  const map = (value) => from + (to - from) * (warp(value) - warp(low)) / (warp(high) - warp(low));
  return { map, low, high };
}

class Chart {
  constructor(data) {
    this.data = data;
    this.box = document.getElementById("chart-box");
    this.root = document.getElementById("chart");
    this.tooltip = document.getElementById("tooltip");
    this.metric = document.getElementById("metric");
    this.logarithmic = document.getElementById("logarithmic");
    this.hidden = new Set();
    for (const metric of data.metrics) this.metric.add(new Option(metric.label, metric.key));
    this.logarithmic.checked = data.logarithmic;
    this.metric.addEventListener("change", () => this.draw());
    this.logarithmic.addEventListener("change", () => this.draw());
    this.root.addEventListener("keydown", (event) => this.onKey(event));
    document.getElementById("details-close").addEventListener("click", () => this.closeDetails());
    this.buildLegend();
    // Drawing sets the height, which is observed too: drawing again would take away the focus.
    new ResizeObserver(() => {
      if (this.box.clientWidth !== this.width) this.draw();
    }).observe(this.box);
  }

  buildLegend() {
    const legend = document.getElementById("legend");
    this.data.curves.forEach((curve, index) => {
      const item = document.createElement("li"), label = document.createElement("label");
      const box = document.createElement("input"), line = document.createElement("i");
      box.type = "checkbox"; box.checked = true;
      line.style.borderColor = curve.color;
      line.className = curve.published ? "published" : "";
      box.addEventListener("change", () => {
        if (box.checked) this.hidden.delete(index); else this.hidden.add(index);
        this.draw();
      });
      label.append(box, line, curve.label);
      item.append(label);
      legend.append(item);
    });
  }

  draw() {
    const width = this.width = this.box.clientWidth;
    const height = Math.max(280, Math.min(480, width * 0.6));
    const metric = this.data.metrics.find((entry) => entry.key === this.metric.value);
    this.tooltip.hidden = true;
    this.root.replaceChildren();
    this.groups = [];
    if (!metric || !width) return;
    this.root.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.root.style.height = `${height}px`;
    const curves = this.data.curves.map((curve, index) => ({
      ...curve, index, shown: curve.points.filter((p) => metric.key in p.metrics) }))
      .filter((curve) => !this.hidden.has(curve.index) && curve.shown.length);
    if (!curves.length) {
      svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, this.root)
        .textContent = "No curve is shown";
      return;
    }
    const ceilings = curves.filter((curve) => metric.key in curve.ceiling);
    const values = curves.flatMap((curve) => curve.shown.map((point) => point.metrics[metric.key]));
    values.push(...ceilings.map((curve) => curve.ceiling[metric.key]));
    const rates = curves.flatMap((curve) => curve.shown.map((point) => point.rate));
    const x = scale(rates, 58, width - 12, this.logarithmic.checked);
    const logY = metric.better < 0 && Math.min(...values) > 0
      && Math.max(...values) >= 10 * Math.min(...values);
    const y = scale(values, height - 42, 22, logY);
    this.axes(x, y, width, height, metric, logY);
    for (const curve of ceilings) {
      const at = y.map(curve.ceiling[metric.key]);
      svg("line", { x1: 58, x2: width - 12, y1: at, y2: at, stroke: curve.color,
        "stroke-dasharray": "2 4", "stroke-width": 2 }, this.root);
      svg("text", { x: width - 14, y: at - 5, "text-anchor": "end" }, this.root)
        .textContent = `${curve.label}: ceiling`;
    }
    for (const curve of curves) this.line(curve, metric, x, y);
  }

  axes(x, y, width, height, metric, logY) {
    const bottom = height - 42, ticks = this.logarithmic.checked ? logTicks : linearTicks;
    for (const tick of ticks(x.low, x.high, width / 110)) {
      const at = x.map(tick);
      svg("line", { x1: at, x2: at, y1: 22, y2: bottom, class: "grid" }, this.root);
      svg("text", { x: at, y: bottom + 16, "text-anchor": "middle" }, this.root).textContent = short(tick);
    }
    for (const tick of (logY ? logTicks : linearTicks)(y.low, y.high, 6)) {
      const at = y.map(tick);
      svg("line", { x1: 58, x2: width - 12, y1: at, y2: at, class: "grid" }, this.root);
      svg("text", { x: 53, y: at + 4, "text-anchor": "end" }, this.root).textContent = short(tick);
    }
    svg("path", { d: `M58 22V${bottom}H${width - 12}`, fill: "none", class: "axis" }, this.root);
    svg("text", { x: width / 2, y: height - 6, "text-anchor": "middle" }, this.root)
      .textContent = this.data.rate;
    svg("text", { x: 4, y: 14 }, this.root).textContent = metric.axis;
  }

  line(curve, metric, x, y) {
    const places = curve.shown.map((p) => [x.map(p.rate), y.map(p.metrics[metric.key])]);
    svg("polyline", { points: places.map((place) => place.join()).join(" "), fill: "none",
      stroke: curve.color, "stroke-width": curve.published ? 1.5 : 2.5,
      "stroke-dasharray": curve.published ? "6 4" : "none" }, this.root);
    const row = curve.shown.map((point, i) => {
      const [cx, cy] = places[i];
      const group = svg("g", { class: "point", tabindex: i ? -1 : 0, role: "button",
        "aria-label": this.describe(curve, point, metric).replaceAll("\n", ", ") }, this.root);
      svg("circle", { cx, cy, r: 12, fill: "transparent" }, group);
      svg("circle", { cx, cy, r: 5, class: "dot", stroke: curve.color, "stroke-width": 2,
        fill: curve.published ? "#fff" : curve.color }, group);
      const show = () => this.show(group, curve, point, metric, cx, cy);
      group.addEventListener("pointerenter", show);
      group.addEventListener("focus", show);
      group.addEventListener("pointerleave", () => this.hide(group));
      group.addEventListener("blur", () => this.hide(group));
      group.addEventListener("click", () => this.keep(curve, point));
      return group;
    });
    this.groups.push(row);
  }

  describe(curve, point, metric) {
    const run = this.data.runs[point.run];
    const lines = [curve.label, `${point.name}: ${short(point.rate)} bpp, ${metric.label} `
      + short(point.metrics[metric.key]), run.source];
    return lines.concat(run.brief ? [run.brief] : []).join("\n");
  }

  show(group, curve, point, metric, cx, cy) {
    for (const other of this.root.querySelectorAll(".near")) other.classList.remove("near");
    group.classList.add("near");
    this.tooltip.textContent = this.describe(curve, point, metric);
    this.tooltip.hidden = false;
    const width = this.box.clientWidth, own = this.tooltip.offsetWidth;
    const left = cx + 16 + own > width ? cx - 16 - own : cx + 16;
    this.tooltip.style.left = `${Math.max(0, Math.min(left, width - own))}px`;
    this.tooltip.style.top = `${cy + 14}px`;
  }

  hide(group) {
    group.classList.remove("near");
    if (document.activeElement !== group) this.tooltip.hidden = true;
  }

  keep(curve, point) {
    const run = this.data.runs[point.run];
    document.getElementById("details-title").textContent = `${curve.label}, ${point.name}`;
    document.getElementById("details-text").textContent =
      `${run.source}\n\n${JSON.stringify(point.metrics, null, 2)}\n\n${run.config || "no config is known"}`;
    document.getElementById("details").hidden = false;
  }

  closeDetails() {
    document.getElementById("details").hidden = true;
    this.metric.focus();
  }

  onKey(event) {
    const row = this.groups.findIndex((groups) => groups.includes(document.activeElement));
    if (row < 0) return;
    const column = this.groups[row].indexOf(document.activeElement);
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      document.activeElement.dispatchEvent(new MouseEvent("click"));
      return;
    }
    const [down, right] = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key] || [0, 0];
    if (!down && !right) return;
    event.preventDefault();
    const next = this.groups[(row + down + this.groups.length) % this.groups.length];
    next[Math.max(0, Math.min(next.length - 1, column + right))].focus();
  }
}
