"""Figures by matplotlib, drawn without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from callbacks.point_names import point_settings

DECADE = 10.0
REALISM = ("fid", "fd_random")
LABELS = {
    "psnr-rgb": "PSNR (dB)",
    "ms-ssim-rgb": "MS-SSIM",
    "fid": "FID",
    "fd_random": "Fréchet distance, random embedding",
    "lpips": "LPIPS",
}


def panels(curve: Mapping[str, Any]) -> list[str]:
    """Which metrics a curve's figure shows: fidelity, structure, and the best realism at hand."""
    results = curve["results"]
    realism = next((name for name in REALISM if name in results), None)
    wanted = ["psnr-rgb", "ms-ssim-rgb", *([realism] if realism else [])]
    return [name for name in wanted if name in results and any(_values(results[name]))]


def spans_a_decade(values: Sequence[float]) -> bool:
    """Whether values, all above 0, are best drawn by their logarithm."""
    return bool(values) and 0 < DECADE * min(values) <= max(values)


def plot_curves(curves: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw curves of one data set against bits per pixel, with their ceilings, into a PNG."""
    names = list(dict.fromkeys(name for curve in curves for name in panels(curve)))
    figure = Figure(figsize=(4.2 * max(1, len(names)), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    bpp = [x for curve in curves for x in curve["results"]["bpp"]]
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for curve in curves:
            _draw(axis, curve, name)
        for level in {curve["meta"].get("ceiling", {}).get(name) for curve in curves} - {None}:
            axis.axhline(level, color="grey", linestyle="--", linewidth=1)
            where = {"transform": axis.get_yaxis_transform(), "ha": "right", "va": "bottom"}
            label = axis.text(0.98, level, "ceiling", color="grey", fontsize=8, **where)
            label.set_in_layout(False)
        axis.set_xlabel("bits per pixel")
        axis.set_ylabel(LABELS.get(name, name))
        if max(bpp) > 20 * min(bpp):
            axis.set_xscale("log")
        axis.grid(alpha=0.3)
        if len(axis.get_legend_handles_labels()[0]) > 1:
            axis.legend(fontsize=7)
        if name in REALISM:
            axis.set_title("lower is better", fontsize=8)
            if spans_a_decade([v for c in curves for v in _values(c["results"].get(name, []))]):
                axis.set_yscale("log")
    meta = curves[0]["meta"]
    of = f"{curves[0]['name']} on " if len(curves) == 1 else ""
    figure.suptitle(f"{of}{meta.get('dataset')} ({meta.get('num_images')} images)", fontsize=11)
    figure.savefig(path, dpi=110)


def _draw(axis: Any, curve: Mapping[str, Any], name: str) -> None:
    """A line through the points that differ in rate alone, for each way to decode."""
    lines = _lines(curve, name)
    shared = set.intersection(*map(set, lines)) if lines else set()
    for settings, pairs in lines.items():
        label = " ".join([curve["name"], *(word for word in settings if word not in shared)])
        axis.plot(*zip(*sorted(pairs), strict=True), marker="o", markersize=4, label=label)


def _lines(curve: Mapping[str, Any], name: str) -> dict[tuple[str, ...], list[Any]]:
    """Settings of the points, such as gamma=0.8 -> pairs of bpp and a metric."""
    results, points = curve["results"], curve["meta"]["points"]
    values = results.get(name, [None] * len(points))
    lines: dict[tuple[str, ...], list[Any]] = {}
    for point, bpp, value in zip(points, results["bpp"], values, strict=True):
        if value is not None:
            settings = tuple(f"{k}={v}" for k, v in point_settings(point).items())
            lines.setdefault(settings, []).append((bpp, value))
    return lines


def _values(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]
