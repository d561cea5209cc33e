"""Figures of a comparison, as PNG for the screen and SVG for a paper."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from diffcodec.metrics import Metric, find_metric, headlines, spans_a_decade
from diffcodec.metrics.metric import DECADE
from diffcodec.results.curves import safe_name
from diffcodec.results.figures import plain
from experiments.comparison.lines import Line, measured, metas_of
from experiments.comparison.matched_rates import common_rates, value_at

MARKERS = "osD^vP*X<>"
# Tableau's colours for light backgrounds; the page uses the same.
COLORS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd"),
    *("#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"),
)
COLUMNS = 6  # of panels in a row
FIDELITY = "psnr-rgb"  # the x axis of realism


def draw_all(
    curves: Sequence[Line], folder: Path, *, rate: str = "bpp", at: Sequence[float] = ()
) -> list[Path]:
    """Draw every metric against the rate, realism against PSNR, a grid and an overview.

    Args:
        curves: to compare.
        folder: for the files `METRIC.png`, `METRIC.svg`, `overview.*`, `grid.*` (if there are more
            metrics than an overview shows) and `perception_distortion_METRIC.*`.
        rate: the metric on the rate axis.
        at: rates in bits per pixel for realism against PSNR; default: rates that most curves reach.

    Returns:
        The PNG files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    metrics = measured(curves)
    written = []
    # Skip panels without a comparison, for example with published curves only.
    least = min(2, len(curves))
    own = [curve for curve in curves if not curve.published] or curves
    shared = [
        m.key
        for m in metrics
        if sum(bool(c.pairs(m.key, rate)) for c in curves) >= least
        and any(c.pairs(m.key, rate) for c in own)
    ]
    overview = headlines(shared)
    if overview:
        written.append(save(_panels(curves, overview, rate), folder / "overview"))
    shown = [m for m in metrics if m.key in shared and m.kind != "time"]
    if len(shown) > len(overview):
        written.append(save(_panels(curves, shown, rate), folder / "grid"))
    written += [save(_panels(curves, [m], rate), folder / safe_name(m.key)) for m in metrics]
    realism = [metric for metric in metrics if metric.kind == "perception"]
    for metric in realism if find_metric(FIDELITY) in metrics else []:
        figure = _perception_distortion(curves, metric, rate=rate, at=at)
        if figure is not None:
            written.append(save(figure, folder / f"perception_distortion_{metric.key}"))
    return written


def color_of(index: int) -> str:
    """The colour of the curve with this index."""
    return COLORS[index % len(COLORS)]


def _panels(curves: Sequence[Line], metrics: Sequence[Metric], rate: str) -> Figure:
    """One panel per metric, in rows; in a grid, perception panels are red (CDC, Fig. 2)."""
    rows = -(-len(metrics) // COLUMNS)
    columns = -(-len(metrics) // rows)
    figure = Figure(figsize=(4.6 * columns + 0.4, 3.9 * rows + 0.5), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flatten())
    for axis, metric in zip(axes, metrics, strict=False):
        _draw(axis, curves, metric, rate)
        if len(metrics) > COLUMNS and metric.kind == "perception":
            axis.spines[:].set_color("#d62728")
    for axis in axes[len(metrics) :]:
        axis.set_axis_off()
    legend_below(figure, axes, 2 * columns)
    return figure


def _draw(axis: Axes, curves: Sequence[Line], metric: Metric, rate: str) -> None:
    lines = {curve.label: curve.pairs(metric.key, rate) for curve in curves}
    published = {curve.label for curve in curves if curve.published}
    draw_lines(
        axis,
        lines,
        metric,
        find_metric(rate).label,
        published=published,
        counted=metric.counted(metas_of(curves, metric)),
    )
    for i, curve in enumerate(curves):
        if lines[curve.label] and metric.key in curve.ceiling:
            label = f"{plain(curve.label)}: ceiling"
            axis.axhline(curve.ceiling[metric.key], color=color_of(i), linestyle=":", label=label)


def draw_lines(
    axis: Axes,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    metric: Metric,
    across: str,
    *,
    published: Collection[str] = (),
    counted: str = "",
) -> None:
    """Draw a metric of several lines into a panel.

    Args:
        axis: the panel.
        lines: label -> (x, value), sorted by x; a line without points keeps its colour.
        metric: of the values.
        across: label of the x axis, which is logarithmic if it spans a decade.
        published: labels of published lines, which are dashed.
        counted: number of patches or images, from `Metric.counted`.
    """
    for i, (label, pairs) in enumerate(lines.items()):
        if not pairs:
            continue
        style = {"color": color_of(i), "marker": MARKERS[i % len(MARKERS)], "markersize": 4}
        if label in published:
            style |= {"linestyle": "--", "linewidth": 1, "markerfacecolor": "white"}
        axis.plot(*zip(*pairs, strict=True), label=plain(label), **style)  # type: ignore[arg-type]
    places = [x for pairs in lines.values() for x, _ in pairs]
    axis.set_xlabel(across)
    axis.set_ylabel("\n".join(filter(None, (metric.axis_label, counted))))
    if spans_a_decade(places):
        axis.set_xscale("log")
        few_decades = max(places) < DECADE**2 * min(places)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few_decades else (1,)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
    if metric.logarithmic(value for pairs in lines.values() for _, value in pairs):
        axis.set_yscale("log")
    axis.grid(alpha=0.3)


def _perception_distortion(
    curves: Sequence[Line], metric: Metric, *, rate: str, at: Sequence[float]
) -> Figure | None:
    """Realism against PSNR, one panel per rate; curves of one family are joined by a line."""
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
        counted = metric.counted(metas_of(curves, metric))
        axis.set_ylabel("\n".join(filter(None, (metric.axis_label, counted))))
        if metric.better != "higher":
            axis.invert_yaxis()  # better is at the top right
        axis.grid(alpha=0.3)
    legend_below(figure, axes, 2 * len(rates))
    return figure


def _place(curve: Line, metric: str, bpp: float, rate: str) -> tuple[float, float] | None:
    fidelity = value_at(curve, FIDELITY, bpp, rate)
    realism = value_at(curve, metric, bpp, rate)
    return None if fidelity is None or realism is None else (fidelity, realism)


def legend_below(figure: Figure, axes: Sequence[Axes], columns: int) -> None:
    """One legend for all panels, below them."""
    found: dict[str, Artist] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        found |= {str(label): handle for label, handle in zip(labels, handles, strict=True)}
    figure.legend(
        list(found.values()), list(found), loc="outside lower center", ncols=columns, fontsize=8
    )


def save(figure: Figure, stem: Path) -> Path:
    """Write a figure as `STEM.svg` and `STEM.png`; returns the latter path."""
    FigureCanvasAgg(figure)
    for suffix in (".svg", ".png"):
        figure.savefig(stem.with_name(stem.name + suffix), dpi=130)
    return stem.with_name(f"{stem.name}.png")
