"""Runs -> curves: which points belong on one line, and what the line is called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from callbacks.point_names import point_settings
from experiments.comparison.runs import Run
from experiments.comparison.settings import (
    flatten,
    identity,
    rate_settings,
    weights,
)


@dataclass(frozen=True, eq=False)
class Point:
    """One operating point of one run."""

    name: str
    metrics: Mapping[str, float]
    run: Run


@dataclass(frozen=True, eq=False)
class Curve:
    """Points that are one codec at several rates.

    Attributes:
        name: of the curve, unique among those that are compared.
        family: the runs' own name, which curves that differ in their settings share.
        points: in order of rate.
        settings: what tells this curve from others.
        marks: in what it differs from the others although they are compared (`--allow`).
        ceiling: metric -> the best that this codec can reach at any rate.
    """

    name: str
    family: str
    points: tuple[Point, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    ceiling: Mapping[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """Its name, and what must be known when it is seen beside others."""
        return f"{self.name} [{'; '.join(self.marks)}]" if self.marks else self.name

    @property
    def runs(self) -> list[Run]:
        """Where its points come from, each once."""
        return list(dict.fromkeys(point.run for point in self.points))

    @property
    def published(self) -> bool:
        """Whether it was measured elsewhere."""
        return all(run.published for run in self.runs)

    def pairs(self, metric: str, rate: str = "bpp") -> list[tuple[float, float]]:
        """(rate, value) of the points that have both, in order of rate.

        A publication that has one rate only is taken at that one.
        """
        return sorted(
            (p.metrics.get(rate, p.metrics["bpp"]), p.metrics[metric])
            for p in self.points
            if "bpp" in p.metrics and metric in p.metrics
        )


def join(runs: Sequence[Run], by: Sequence[str] = ()) -> tuple[list[Curve], list[str]]:
    """Group the points of all runs into curves.

    By default points share a curve if their runs have one name and data set and differ in their
    rates alone, and their own names do so, too. A published file is always a curve of its own.

    Args:
        runs: what was read.
        by: what tells curves apart instead: `name`, `run`, keys of the config such as `codec.rho`
            or `rho`, and keys of points such as `steps`, or `series` for a word without a key.

    Returns:
        The curves in the order of their first points, and remarks on what was left out.

    Raises:
        ValueError: a key of `by` is in no run.
    """
    points = [Point(name, metrics, run) for run in runs for name, metrics in run.points]
    if by:
        _check_keys(by, points)
        keys = {id(point): {key: _lookup(point, key) for key in by} for point in points}
    else:
        keys = {id(point): _default_key(point) for point in points}
        _tell_by_weights(points, keys)
    groups: dict[tuple[tuple[str, str], ...], list[Point]] = {}
    for point in points:
        groups.setdefault(tuple(keys[id(point)].items()), []).append(point)
    curves, remarks = [], []
    for key, members in groups.items():
        kept, remark = _newest(members)
        remarks += remark
        family = kept[0].run.name
        settings = {k: v for k, v in dict(key).items() if k != "name"}
        ordered = sorted(kept, key=lambda point: point.metrics.get("bpp", 0.0))
        curves.append(Curve(family, family, tuple(ordered), settings, ceiling=_ceiling(ordered)))
    return _named_apart(curves), remarks


def _default_key(point: Point) -> dict[str, str]:
    key = {"name": point.run.name}
    if point.run.published:
        key["run"] = point.run.source
    own = point_settings(point.name)
    # A list in the config is no part of what a point is: `gamma=0` of [0, 0.8] is that of [0], too.
    shared = {k: v for k, v in identity(point.run).items() if k.rpartition(".")[2] not in own}
    return key | _dataset(point.run) | shared | own


def _tell_by_weights(points: Sequence[Point], keys: dict[int, dict[str, str]]) -> None:
    """Where weights alone tell two points apart, they are two models and not two rates."""
    seen: dict[tuple[object, ...], list[Point]] = {}
    for point in points:
        place = (*keys[id(point)].items(), *rate_settings(point.run).items(), point.name)
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


def _newest(points: Sequence[Point]) -> tuple[list[Point], list[str]]:
    """Of points that were measured several times with one config, those of the newest run."""
    groups: dict[tuple[object, ...], list[Point]] = {}
    for point in points:
        same = point.run.source if point.run.published else tuple(flatten(_lasting(point)).items())
        groups.setdefault((same, point.name), []).append(point)
    kept, repeated = [], []
    for members in groups.values():
        best = max(members, key=lambda point: point.run.modified)
        kept.append(best)
        if len(members) > 1:
            repeated.append(best)
    runs = dict.fromkeys(point.run for point in repeated)
    return kept, [f"{run.name} was run more than once: {run.source} is the newest" for run in runs]


def _lasting(point: Point) -> dict[str, object]:
    run = point.run
    settings = (identity(run), rate_settings(run), weights(run), _dataset(run))
    return {str(i): part for i, part in enumerate(settings)}


def _dataset(run: Run) -> dict[str, str]:
    return {"dataset": str(run.meta["dataset"])} if "dataset" in run.meta else {}


def _check_keys(by: Sequence[str], points: Sequence[Point]) -> None:
    known = {"name", "run", *(key for p in points for key in point_settings(p.name))}
    for key in by:
        if key not in known and not any(_lookup(point, key) for point in points):
            raise ValueError(
                f"no run has a setting {key!r}: --by takes {', '.join(sorted(known))} "
                "and keys of the config such as codec.rho"
            )


def _lookup(point: Point, key: str) -> str:
    if key == "name":
        return point.run.name
    if key == "run":
        return point.run.source
    own = point_settings(point.name)
    if key in own:
        return own[key]
    flat = flatten(point.run.config)
    return flat.get(key) or flat.get(f"codec.{key}") or ""


def _ceiling(points: Sequence[Point]) -> dict[str, float]:
    found: dict[str, float] = {}
    for point in points:
        found |= point.run.meta.get("ceiling") or {}
    return found


def _named_apart(curves: list[Curve]) -> list[Curve]:
    """Add to names that occur several times what tells their curves apart."""
    named = []
    for curve in curves:
        alike = [other for other in curves if other.family == curve.family]
        keys = dict.fromkeys(key for other in alike for key in other.settings if key != "run")
        telling = [k for k in keys if len({other.settings.get(k) for other in alike}) > 1]
        parts = [_told(k, curve.settings[k]) for k in telling if k in curve.settings]
        name = f"{curve.family} ({', '.join(parts)})" if parts else curve.family
        named.append(replace(curve, name=name))
    names = [curve.name for curve in named]
    for i, curve in enumerate(named):
        if names.count(curve.name) > 1:
            source = curve.runs[0].source
            named[i] = replace(curve, name=f"{curve.name} ({source})")
    return named


def _told(key: str, value: str) -> str:
    return value if key == "series" else f"{key.rpartition('.')[2]}={value}"
