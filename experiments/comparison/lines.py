"""Joins runs into curves: which points form a line, and its name."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from diffcodec.metrics import Metric, ordered
from diffcodec.points import Point, Setting, shown
from experiments.comparison.runs import Run
from experiments.comparison.settings import flatten, identity, weights


@dataclass(frozen=True, eq=False)
class Measurement:
    """The measurements of one run at one operating point."""

    point: Point
    metrics: Mapping[str, float]
    run: Run

    @property
    def name(self) -> str:
        """The name of the operating point."""
        return self.point.name


@dataclass(frozen=True, eq=False)
class Line:
    """Points of one codec at several rates.

    Attributes:
        name: of the curve, unique in the comparison.
        family: the runs' own name, shared by curves that differ in settings.
        points: sorted by rate.
        settings: that distinguish this curve from others.
        marks: properties that differ from other curves (`--allow`).
        ceiling: metric -> the best value that this codec can reach at any rate.
    """

    name: str
    family: str
    points: tuple[Measurement, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    ceiling: Mapping[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its name and the properties that must be known beside others."""
        return f"{self.name} [{'; '.join(self.marks)}]" if self.marks else self.name

    @property
    def runs(self) -> list[Run]:
        """The runs of its points, each once."""
        return list(dict.fromkeys(point.run for point in self.points))

    @property
    def published(self) -> bool:
        """Whether it was measured elsewhere."""
        return all(run.published for run in self.runs)

    def pairs(self, metric: str, rate: str = "bpp") -> list[tuple[float, float]]:
        """(rate, value) of the points that have both, sorted by rate.

        A publication with only one kind of rate uses that one.
        """
        return sorted(
            (p.metrics.get(rate, p.metrics["bpp"]), p.metrics[metric])
            for p in self.points
            if "bpp" in p.metrics and metric in p.metrics
        )


def measured(curves: Iterable[Line]) -> list[Metric]:
    """The metrics, except rates, that at least one curve has, in display order."""
    found = ordered(key for curve in curves for point in curve.points for key in point.metrics)
    return [metric for metric in found if metric.kind != "rate"]


def metas_of(curves: Iterable[Line], metric: Metric) -> list[Mapping[str, Any]]:
    """`meta` of the runs in which these curves have a metric."""
    runs = [p.run for curve in curves for p in curve.points if metric.key in p.metrics]
    return [run.meta for run in dict.fromkeys(runs)]


def join(runs: Sequence[Run], by: Sequence[str] = ()) -> tuple[list[Line], list[str]]:
    """Group the points of all runs into curves.

    By default points share a curve if their runs have the same name and data set, and the points
    differ only in their rate settings. A file whose points have names but no settings, such as a
    published one, is one curve.

    Args:
        runs: to join.
        by: what distinguishes curves instead: `name`, `run`, keys of the config such as `codec.rho`
            or `rho`, keys of points such as `steps`, or `series`.

    Returns:
        The curves in order of their first points, and remarks on what was left out.

    Raises:
        ValueError: no run has a key of `by`.
    """
    points = [
        Measurement(point, metrics, run)
        for run in runs
        for point, metrics in zip(run.curve.points, run.curve.metrics, strict=True)
    ]
    if by:
        _check_keys(by, points)
        keys = {id(point): {key: lookup(point, key) for key in by} for point in points}
    else:
        keys = {id(point): _default_key(point) for point in points}
        _tell_by_weights(points, keys)
    groups: dict[tuple[tuple[str, str], ...], list[Measurement]] = {}
    for point in points:
        groups.setdefault(tuple(keys[id(point)].items()), []).append(point)
    curves, remarks = [], []
    for key, members in groups.items():
        kept, remark = _newest(members)
        remarks += remark
        family = kept[0].run.name
        settings = {k: v for k, v in dict(key).items() if k != "name"}
        ordered = sorted(kept, key=lambda point: point.metrics.get("bpp", 0.0))
        curves.append(Line(family, family, tuple(ordered), settings, ceiling=_ceiling(ordered)))
    return _named_apart(curves), remarks


def _default_key(point: Measurement) -> dict[str, str]:
    run = point.run
    key = {"name": run.name}
    if not run.states_settings:
        key["run"] = run.source
    return key | _dataset(run) | identity(run) | _as_text(point.point.line)


def _tell_by_weights(points: Sequence[Measurement], keys: dict[int, dict[str, str]]) -> None:
    """Points that differ only in weights are two models, not two rates."""
    seen: dict[tuple[object, ...], list[Measurement]] = {}
    for point in points:
        place = (*keys[id(point)].items(), *_as_text(point.point.rate).items())
        seen.setdefault(place, []).append(point)
    clashing = {
        id(point.run)
        for members in seen.values()
        if len({tuple(weights(point.run).items()) for point in members}) > 1
        for point in members
    }
    for point in points:
        if id(point.run) in clashing:
            keys[id(point)] |= weights(point.run)


def _newest(points: Sequence[Measurement]) -> tuple[list[Measurement], list[str]]:
    """Keep the newest of several measurements of the same points with one config."""
    groups: dict[tuple[object, ...], list[Measurement]] = {}
    for point in points:
        same: object = point.run.source
        if point.run.states_settings:
            same = tuple(flatten(_lasting(point)).items())
        groups.setdefault((same, *_place(point)), []).append(point)
    kept, repeated = [], []
    for members in groups.values():
        best = max(members, key=lambda point: point.run.modified)
        kept.append(best)
        if len(members) > 1:
            repeated.append(best)
    runs = dict.fromkeys(point.run for point in repeated)
    return kept, [f"{run.name} was run more than once: {run.source} is the newest" for run in runs]


def _lasting(point: Measurement) -> dict[str, object]:
    run = point.run
    settings = (identity(run), weights(run), _dataset(run))
    return {str(i): part for i, part in enumerate(settings)}


def _place(point: Measurement) -> tuple[object, ...]:
    """The identity of a point, independent of other points of its run."""
    settings = point.point.settings
    return tuple(_as_text(settings).items()) if settings else (point.name,)


def _as_text(settings: Mapping[str, Setting]) -> dict[str, str]:
    return {key: shown(value) for key, value in settings.items()}


def _dataset(run: Run) -> dict[str, str]:
    return {"dataset": str(run.meta["dataset"])} if "dataset" in run.meta else {}


def _check_keys(by: Sequence[str], points: Sequence[Measurement]) -> None:
    known = {"name", "run", "series", *(key for p in points for key in p.point.settings)}
    for key in by:
        if key not in known and not any(lookup(point, key) for point in points):
            raise ValueError(
                f"no run has a setting {key!r}: --by takes {', '.join(sorted(known))} "
                "and keys of the config such as codec.rho"
            )


def lookup(point: Measurement, key: str) -> str:
    """A setting of an operating point, its preset or its run as text; "" if there is none.

    Args:
        point: the measurements at it.
        key: as in `join`.
    """
    if key == "name":
        return point.run.name
    if key == "run":
        return point.run.source
    if key == "series":
        return point.point.series
    own = _as_text(point.point.settings)
    if key in own:
        return own[key]
    flat = flatten(point.run.config)
    # The enhancer's presets have their own settings, such as the solver.
    of_preset = flat.get(f"codec.preset.{own.get('preset')}.{key}")
    return flat.get(key) or flat.get(f"codec.{key}") or of_preset or ""


def _ceiling(points: Sequence[Measurement]) -> dict[str, float]:
    found: dict[str, float] = {}
    for point in points:
        found |= point.run.curve.ceiling
    return found


def _named_apart(curves: list[Line]) -> list[Line]:
    """Append what distinguishes curves to names that occur several times.

    That is the series if it suffices, else the differing settings.
    """
    named = []
    for curve in curves:
        alike = [other for other in curves if other.family == curve.family]
        series = _series(curve)
        told = {k: v for k, v in curve.settings.items() if k != "run"}
        by_series = len({_series(other) for other in alike}) > 1
        if by_series:
            # The series name covers these settings.
            alike = [other for other in alike if _series(other) == series]
            told = {k: v for k, v in told.items() if k not in curve.points[0].point.line}
        keys = dict.fromkeys(key for other in alike for key in other.settings if key in told)
        telling = [k for k in keys if len({other.settings.get(k) for other in alike}) > 1]
        name = f"{curve.family} {series}".strip() if by_series else curve.family
        parts = ", ".join(f"{key.rpartition('.')[2]}={told[key]}" for key in telling)
        named.append(replace(curve, name=f"{name} ({parts})" if parts else name))
    names = [curve.name for curve in named]
    for i, curve in enumerate(named):
        if names.count(curve.name) > 1:
            source = curve.runs[0].source
            named[i] = replace(curve, name=f"{curve.name} ({source})")
    return named


def _series(curve: Line) -> str:
    """The series of the points of a curve; "" if they disagree.

    A run with a single line has no series name.
    """
    found = {point.point.series for point in curve.points} - {""}
    return found.pop() if len(found) == 1 else ""
