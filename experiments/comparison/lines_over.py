"""Figures over a setting, such as the steps, or over the decoding time."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from diffcodec.metrics import Metric, all_metrics, find_metric
from diffcodec.points import shown
from diffcodec.results.curves import safe_name
from experiments.comparison.figures import draw_lines, legend_below, save
from experiments.comparison.lines import Line, Measurement, lookup, measured, metas_of

COLUMNS = 4
Series = list[tuple[float, Measurement]]


def draw_over(
    curves: Sequence[Line], x: str, folder: Path, *, by: Sequence[str] = ()
) -> list[Path]:
    """Draw every metric over a setting or a metric, one line per combination of other settings.

    PerCo's Fig. 8 is over `steps`, one line per rate; Fig. 2 of the enhancer over `decoding_time`,
    one line per solver.

    Args:
        curves: to compare.
        x: a numeric setting of the operating points, or a measured metric.
        folder: for `over_X.png` and `over_X.svg`.
        by: what distinguishes lines, as in `--by`. Default: all settings of the points except `x`
            and, over a metric, except the steps.

    Returns:
        The PNG file.

    Raises:
        ValueError: no point has a number there.
    """
    lines = lines_over(curves, x, by)
    metrics = [
        metric
        for metric in [*_rates(lines), *measured(curves)]
        if metric.key != x and metric.kind != "time"
    ]
    rows = -(-len(metrics) // COLUMNS)
    columns = min(COLUMNS, len(metrics))
    figure = Figure(figsize=(4.2 * columns + 0.4, 3.6 * rows + 0.8), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flatten())
    for axis, metric in zip(axes, metrics, strict=False):
        values = {
            name: [(at, p.metrics[metric.key]) for at, p in series if metric.key in p.metrics]
            for name, series in lines.items()
        }
        counted = metric.counted(metas_of(curves, metric))
        draw_lines(axis, values, metric, find_metric(x).heading, counted=counted)
    for axis in axes[len(metrics) :]:
        axis.set_axis_off()
    legend_below(figure, axes, 2 * columns)
    return [save(figure, folder / f"over_{safe_name(x)}")]


def lines_over(curves: Sequence[Line], x: str, by: Sequence[str] = ()) -> dict[str, Series]:
    """Name of a line -> its points sorted by `x`, for `draw_over`."""
    several = len({curve.family for curve in curves}) > 1
    lines: dict[str, Series] = {}
    for curve in curves:
        for point in curve.points:
            at = _value(point, x)
            if at is None:
                continue
            if by:
                parts = {key: lookup(point, key) for key in by}
            else:
                left_out = {x} if x not in all_metrics() else {x, "steps"}
                settings = point.point.settings
                parts = {k: shown(v) for k, v in settings.items() if k not in left_out}
            parts = _telling(parts, curves, x)
            name = ", ".join(f"{key}={value}" for key, value in parts.items())
            family = curve.family if several or not name else ""
            lines.setdefault(f"{family} {name}".strip(), []).append((at, point))
    if not lines:
        known = sorted({k for c in curves for p in c.points for k in p.point.settings})
        raise ValueError(
            f"no point has a value of {x!r}: --x takes a measured metric, or one of "
            f"{', '.join(known) or 'no setting'}"
        )
    return {name: sorted(series, key=lambda pair: pair[0]) for name, series in lines.items()}


def _telling(parts: dict[str, str], curves: Sequence[Line], x: str) -> dict[str, str]:
    """The settings in which at least two points differ."""
    points = [point for curve in curves for point in curve.points if _value(point, x) is not None]
    return {
        key: value
        for key, value in parts.items()
        if len({lookup(point, key) for point in points}) > 1
    }


def _value(point: Measurement, x: str) -> float | None:
    value = point.point.settings.get(x, point.metrics.get(x))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


def _rates(lines: dict[str, Series]) -> list[Metric]:
    """The rate, if it changes along a line; a constant rate needs no panel."""
    changes = any(
        len({point.metrics.get("bpp") for _, point in series}) > 1 for series in lines.values()
    )
    return [find_metric("bpp")] if changes else []
