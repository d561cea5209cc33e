"""The table: one row per curve, Bjøntegaard deltas against an anchor, and footnotes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from diffcodec.metrics import Metric, all_metrics, find_metric, headlines
from experiments.comparison.bjontegaard_delta import METHODS, Delta, bd_metric, bd_rate
from experiments.comparison.compatibility import unstated
from experiments.comparison.lines import Line, measured, metas_of

RATE_OF = "psnr-rgb"  # BD-rate is taken at equal PSNR


@dataclass(frozen=True)
class Cell:
    """A displayed number, blank if there is none, and the numbers of its footnotes."""

    text: str = ""
    notes: tuple[int, ...] = ()
    value: float | None = None


@dataclass
class Table:
    """A table for any renderer.

    Attributes:
        title: of the comparison.
        columns: (key, heading); the first is the curve's name.
        rows: one cell per column.
        footnotes: texts, numbered from 1.
        warnings: that a reader should not overlook.
    """

    title: str
    columns: list[tuple[str, str]]
    rows: list[list[Cell]] = field(default_factory=list)
    footnotes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def note(self, text: str) -> int:
        """The number of a footnote, which is added once."""
        if text not in self.footnotes:
            self.footnotes.append(text)
        return self.footnotes.index(text) + 1


def find_anchor(curves: Sequence[Line], name: str | None) -> Line:
    """The curve of that name, or the first one.

    Raises:
        ValueError: none or several have it; the message lists the names.
    """
    if name is None:
        return curves[0]
    exact = [curve for curve in curves if name == curve.name]
    found = exact or [curve for curve in curves if curve.family == name]
    if len(found) != 1:
        names = ", ".join(repr(curve.name) for curve in curves)
        raise ValueError(f"{len(found) or 'no'} curves are named {name!r}, choose from {names}")
    return found[0]


def build_table(
    curves: Sequence[Line], anchor: Line, *, method: str = "akima", rate: str = "bpp"
) -> Table:
    """One row per curve: times, parameters, and deltas against the anchor.

    Args:
        curves: to compare.
        anchor: one of them.
        method: of the interpolation, `akima`, `pchip` or `cubic`.
        rate: the metric on the rate axis.

    Raises:
        ValueError: the method is unknown.
    """
    datasets = dict.fromkeys(
        str(r.meta["dataset"]) for c in curves for r in c.runs if "dataset" in r.meta
    )
    where = f" on {', '.join(datasets)}" if datasets else ""
    metrics = headlines(metric.key for metric in measured(curves))
    times = [metric for metric in all_metrics().values() if metric.kind == "time"]
    counted = sorted({metric.counted(metas_of(curves, metric)) for metric in metrics} - {""})
    over = f" (distances between sets: {', '.join(counted)})" if counted else ""
    table = Table(
        f"Against {anchor.name}{where}{over}",
        [
            *(("name", "codec"), ("range", rate), ("shared", f"shared {rate}")),
            *((metric.key, metric.column or metric.heading) for metric in times),
            *(("parameters", "params (M)"), ("bd_rate", "BD-rate (%)")),
            *((f"bd_{metric.key}", f"BD-{metric.column or metric.label}") for metric in metrics),
        ],
    )
    for curve in curves:
        table.rows.append(_row(table, curve, anchor, metrics, times, method=method, rate=rate))
    table.footnotes.append(
        f"BD figures: bjontegaard package, {method}; BD-rate at equal {find_metric(RATE_OF).label},"
        f" the others over log {rate}; times: means over a curve's points"
    )
    for curve in curves:
        counts = {run.meta.get("num_skipped") for run in curve.runs} - {None, 0}
        if counts:
            told = "/".join(map(str, sorted(counts)))  # type: ignore[type-var]
            table.footnotes.append(f"{curve.name}: {told} broken images were left out")
    silent: dict[str, list[str]] = {}
    for name, names in unstated(curves, rate).items():
        silent.setdefault(", ".join(names), []).append(name)
    for curves_named, names in silent.items():
        table.footnotes.append(f"not stated by {curves_named}: {', '.join(names)}")
    return table


def _row(
    table: Table,
    curve: Line,
    anchor: Line,
    metrics: Sequence[Metric],
    times: Sequence[Metric],
    *,
    method: str,
    rate: str,
) -> list[Cell]:
    rates = [r for r, _ in curve.pairs("bpp", rate)]
    shared = _shared_rates(curve, anchor, rate)
    marks = tuple(table.note(f"not like the others: {mark}") for mark in curve.marks)
    cells = [
        Cell(curve.name + (" (anchor)" if curve is anchor else ""), marks),
        Cell(_range(min(rates), max(rates)) if rates else ""),
        Cell(_range(*shared) if shared else "", () if shared else (table.note("no shared rates"),)),
        *(_time(table, curve, metric.key) for metric in times),
        _parameters(table, curve),
    ]
    options = {"method": method, "rate": rate}
    deltas = [("BD-rate", bd_rate(anchor, curve, RATE_OF, **options))]
    deltas += [(f"BD-{m.label}", bd_metric(anchor, curve, m.key, **options)) for m in metrics]
    for name, delta in deltas:
        if curve is anchor and delta.value is not None:
            delta = Delta(0.0, overlap=1.0)
        cells.append(_delta(table, curve, name, delta))
    return cells


def _delta(table: Table, curve: Line, name: str, delta: Delta) -> Cell:
    if delta.value is None:
        return Cell("", (table.note(delta.reason or "unknown"),))
    notes: tuple[int, ...] = ()
    if delta.doubtful:
        share = f"{100 * (delta.overlap or 0):.0f}%"
        notes = (table.note(f"the curves share only {share} of what they span"),)
        table.warnings.append(
            f"{name} of {curve.name} rests on {delta.low:.4g} to {delta.high:.4g}, "
            f"{share} of what the two curves span"
        )
    return Cell(_significant(delta.value), notes, delta.value)


def _time(table: Table, curve: Line, key: str) -> Cell:
    seconds = [point.metrics[key] for point in curve.points if key in point.metrics]
    if not seconds:
        return Cell("", (table.note("no times"),))
    notes = (table.note("timed by its publisher, on another machine"),) if curve.published else ()
    return Cell(f"{fmean(seconds):.3g}", notes, fmean(seconds))


def _parameters(table: Table, curve: Line) -> Cell:
    counts = {run.meta["num_parameters"] for run in curve.runs if "num_parameters" in run.meta}
    if not counts:
        return Cell("", (table.note("number of parameters not stated"),))
    if len(counts) == 1:
        millions = counts.pop() / 1e6
        return Cell(f"{millions:.3g}", value=millions)
    return Cell(_range(min(counts) / 1e6, max(counts) / 1e6), value=max(counts) / 1e6)


def _shared_rates(curve: Line, anchor: Line, rate: str) -> tuple[float, float] | None:
    axes = [[r for r, _ in side.pairs("bpp", rate)] for side in (curve, anchor)]
    if not all(axes):
        return None
    low, high = max(map(min, axes)), min(map(max, axes))
    return (low, high) if low <= high else None


def _range(low: float, high: float) -> str:
    return f"{low:.3g}" if low == high else f"{low:.3g}–{high:.3g}"


def _significant(value: float) -> str:
    return f"{value:+.1f}" if abs(value) >= 10 else f"{value:+.3g}" if value else "0"


def all_deltas(curves: Sequence[Line], anchor: Line, rate: str = "bpp") -> list[dict[str, object]]:
    """Every delta by every interpolation, one mapping per curve and metric, for a spreadsheet."""
    rows: list[dict[str, object]] = []
    for curve in curves:
        for metric in (m.key for m in measured(curves) if m.kind != "time"):
            for method in METHODS:
                options = {"method": method, "rate": rate}
                kinds = {
                    "BD-metric": bd_metric(anchor, curve, metric, **options),
                    "BD-rate (%)": bd_rate(anchor, curve, metric, **options),
                }
                rows += [
                    {
                        **{"curve": curve.label, "anchor": anchor.label, "metric": metric},
                        **{"kind": kind, "method": method, "value": delta.value},
                        **{"low": delta.low, "high": delta.high, "overlap": delta.overlap},
                        "reason": delta.reason,
                    }
                    for kind, delta in kinds.items()
                ]
    return rows
