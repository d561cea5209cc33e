"""Figures of a comparison, as PNG for the screen and SVG for a paper."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from diffcodec.curves import safe_name
from diffcodec.figures import plain
from diffcodec.metrics import Metric, find_metric, headlines, spans_a_decade
from diffcodec.metrics.metric import DECADE
from experiments.comparison.joining import Line, measured
from experiments.comparison.matched import common_rates, value_at

MARKERS = "osD^vP*X<>"
# Tableau's colours for light backgrounds; the page uses the same.
COLORS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd"),
    *("#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"),
)
FIDELITY = "psnr-rgb"  # what realism is set against


def draw_all(
    curves: Sequence[Line], folder: Path, *, rate: str = "bpp", at: Sequence[float] = ()
) -> list[Path]:
    """Draw every metric against the rate, realism against PSNR, and an overview.

    Args:
        curves: what is compared.
        folder: where the files go: `METRIC.png`, `METRIC.svg`, `overview.*` and
            `perception_distortion_METRIC.*`.
        rate: the metric on the rate axis.
        at: rates in bits per pixel for realism against PSNR; by default those that most curves
            reach.

    Returns:
        The PNG files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metrics = measured(curves)
    written = []
    # A panel that compares nothing is left out; one Fréchet distance is enough beside the others.
    least = min(2, len(curves))
    shared = [m.key for m in metrics if sum(bool(c.pairs(m.key, rate)) for c in curves) >= least]
    overview = headlines(shared)
    if overview:
        written.append(_save(_panels(curves, overview, rate), folder / "overview"))
    written += [_save(_panels(curves, [m], rate), folder / safe_name(m.key)) for m in metrics]
    realism = [metric for metric in metrics if metric.kind == "perception"]
    for metric in realism if find_metric(FIDELITY) in metrics else []:
        figure = _perception_distortion(curves, metric, rate=rate, at=at)
        if figure is not None:
            written.append(_save(figure, folder / f"perception_distortion_{metric.key}"))
    return written


def color_of(index: int) -> str:
    """The colour of the curve with this number."""
    return COLORS[index % len(COLORS)]


def _panels(curves: Sequence[Line], metrics: Sequence[Metric], rate: str) -> Figure:
    figure = Figure(figsize=(4.6 * len(metrics) + 0.4, 4.4), layout="constrained")
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axis, metric in zip(axes, metrics, strict=True):
        _draw(axis, curves, metric, rate)
    _legend(figure, axes, 2 * len(metrics))
    return figure


def _draw(axis: Axes, curves: Sequence[Line], metric: Metric, rate: str) -> None:
    rates: list[float] = []
    for i, curve in enumerate(curves):
        pairs = curve.pairs(metric.key, rate)
        if not pairs:
            continue
        rates += [r for r, _ in pairs]
        style = {"color": color_of(i), "marker": MARKERS[i % len(MARKERS)], "markersize": 4}
        if curve.published:
            style |= {"linestyle": "--", "linewidth": 1, "markerfacecolor": "white"}
        axis.plot(*zip(*pairs, strict=True), label=plain(curve.label), **style)  # type: ignore[arg-type]
        if metric.key in curve.ceiling:
            label = f"{plain(curve.label)}: ceiling"
            axis.axhline(curve.ceiling[metric.key], color=color_of(i), linestyle=":", label=label)
    axis.set_xlabel(find_metric(rate).label)
    axis.set_ylabel(metric.axis_label)
    if spans_a_decade(rates):
        axis.set_xscale("log")
        few_decades = max(rates) < DECADE**2 * min(rates)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few_decades else (1,)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    if metric.logarithmic(value for curve in curves for _, value in curve.pairs(metric.key, rate)):
        axis.set_yscale("log")
    axis.grid(alpha=0.3)


def _perception_distortion(
    curves: Sequence[Line], metric: Metric, *, rate: str, at: Sequence[float]
) -> Figure | None:
    """Realism against PSNR, a panel per rate; curves of one family are joined by a line."""
    rates = list(at) or common_rates(curves, (metric.key, FIDELITY), rate=rate)
    rates = [bpp for bpp in rates if any(_place(curve, metric.key, bpp, rate) for curve in curves)]
    if not rates:
        return None
    figure = Figure(figsize=(4.6 * len(rates) + 0.4, 4.4), layout="constrained")
    axes = figure.subplots(1, len(rates), squeeze=False)[0]
    for axis, bpp in zip(axes, rates, strict=True):
        families: dict[str, list[tuple[float, float]]] = {}
        for i, curve in enumerate(curves):
            place = _place(curve, metric.key, bpp, rate)
            if place is None:
                continue
            families.setdefault(curve.family, []).append(place)
            marker = MARKERS[i % len(MARKERS)]
            axis.plot(*place, marker, color=color_of(i), markersize=7, label=plain(curve.label))
        for places in families.values():
            axis.plot(*zip(*sorted(places), strict=True), color="gray", linewidth=0.8, zorder=0)
        axis.set_title(f"at {bpp:.3g} bpp", fontsize=10)
        axis.set_xlabel(find_metric(FIDELITY).axis_label)
        axis.set_ylabel(metric.axis_label)
        if metric.better != "higher":
            axis.invert_yaxis()  # better is up and to the right
        axis.grid(alpha=0.3)
    _legend(figure, axes, 2 * len(rates))
    return figure


def _place(curve: Line, metric: str, bpp: float, rate: str) -> tuple[float, float] | None:
    fidelity = value_at(curve, FIDELITY, bpp, rate)
    realism = value_at(curve, metric, bpp, rate)
    return None if fidelity is None or realism is None else (fidelity, realism)


def _legend(figure: Figure, axes: Sequence[Axes], columns: int) -> None:
    """One legend for all panels, below them."""
    found: dict[str, Artist] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        found |= {str(label): handle for label, handle in zip(labels, handles, strict=True)}
    figure.legend(
        list(found.values()), list(found), loc="outside lower center", ncols=columns, fontsize=8
    )


def _save(figure: Figure, stem: Path) -> Path:
    FigureCanvasAgg(figure)
    for suffix in (".svg", ".png"):
        figure.savefig(stem.with_name(stem.name + suffix), dpi=130)
    return stem.with_name(f"{stem.name}.png")
