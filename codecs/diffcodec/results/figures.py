"""Rate-distortion figures of a run, drawn by matplotlib without a display."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from diffcodec.metrics import Metric, headlines, ordered
from diffcodec.results.curves import Curve

COLUMNS = 4


def panels(curves: Sequence[Curve]) -> list[Metric]:
    """The headline metrics of curves, which a figure shows by default."""
    return headlines(key for curve in curves for key in curve.keys)


def all_panels(curves: Sequence[Curve]) -> list[Metric]:
    """All metrics of distortion or perception that at least one curve has."""
    found = ordered(key for curve in curves for key in curve.keys)
    return [metric for metric in found if metric.kind in ("distortion", "perception")]


def plot_curves(
    curves: Sequence[Curve], path: Path, metrics: Sequence[Metric] | None = None
) -> None:
    """Plot curves of one data set over bits per pixel, with their ceilings, and write a PNG.

    Args:
        curves: curves to plot.
        path: path of the PNG.
        metrics: metrics to plot, one panel each, four per row; None selects those of `panels`, in
            one row.
    """
    rows = 1 if metrics is None else max(1, -(-len(metrics) // COLUMNS))
    metrics = panels(curves) if metrics is None else metrics
    columns = max(1, -(-len(metrics) // rows))
    figure = Figure(figsize=(4.2 * columns, 3.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    rates = [rate for curve in curves for rate, _ in curve.pairs("bpp")]
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes[len(metrics) :]:
        axis.set_axis_off()
    for axis, metric in zip(axes, metrics, strict=False):
        for curve in curves:
            pairs = curve.pairs(metric.key)
            if pairs:
                label = plain(curve.name)
                axis.plot(*zip(*pairs, strict=True), marker="o", markersize=4, label=label)
        for level in {curve.ceiling.get(metric.key) for curve in curves} - {None}:
            _draw_ceiling(axis, level)
        axis.set_xlabel("bits per pixel")
        counted = metric.counted(curve.meta for curve in curves if curve.pairs(metric.key))
        axis.set_ylabel(", ".join(filter(None, (metric.heading, counted))))
        if max(rates) > 20 * min(rates):
            axis.set_xscale("log")
        axis.grid(alpha=0.3)
        if len(axis.get_legend_handles_labels()[0]) > 1:
            axis.legend(fontsize=7)
        if metric.better == "lower":
            axis.set_title("lower is better", fontsize=8)
        if metric.logarithmic(v for curve in curves for _, v in curve.pairs(metric.key)):
            axis.set_yscale("log")
    meta = curves[0].meta
    of = f"{plain(curves[0].name)} on " if len(curves) == 1 else ""
    skipped = f", {meta['num_skipped']} skipped" if meta.get("num_skipped") else ""
    figure.suptitle(
        f"{of}{plain(str(meta.get('dataset')))} ({meta.get('num_images')} images{skipped})",
        fontsize=11,
    )
    figure.savefig(path, dpi=110)


def plain(text: str) -> str:
    """Escape dollar signs, between which matplotlib would parse a formula."""
    return text.replace("$", r"\$")


def _draw_ceiling(axis: Any, level: Any) -> None:
    axis.axhline(level, color="grey", linestyle="--", linewidth=1)
    where = {"transform": axis.get_yaxis_transform(), "ha": "right", "va": "bottom"}
    label = axis.text(0.98, level, "ceiling", color="grey", fontsize=8, **where)
    label.set_in_layout(False)
