"""Bjøntegaard deltas of two curves, for metrics of either sign, or the reason for their absence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from experiments.comparison.lines import Line

METHODS = ("akima", "pchip", "cubic")
CUBIC_POINTS = 4  # that a cubic needs
MIN_OVERLAP = 0.5  # of the range that the two curves span together


@dataclass(frozen=True)
class Delta:
    """The mean difference of two curves over their shared range.

    Attributes:
        value: test minus anchor; None if undefined.
        low, high: the shared range, of the rate (metrics) or of the metric (rates).
        overlap: the shared range relative to the joint range; of rates in the logarithm.
        reason: why `value` is None.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    overlap: float | None = None
    reason: str | None = None

    @property
    def doubtful(self) -> bool:
        """Whether the shared range is less than half of the joint range."""
        return self.value is not None and (self.overlap or 0.0) < MIN_OVERLAP


def bd_metric(
    anchor: Line, test: Line, metric: str, *, method: str = "akima", rate: str = "bpp"
) -> Delta:
    """Mean difference of a metric over the logarithm of the rate (such as BD-PSNR).

    Args:
        anchor, test: the curves.
        metric: of either sign; the result is positive if the test's values are larger.
        method: `akima` or `pchip`, through the points, or `cubic`, one polynomial fitted to them
            (Bjøntegaard 2001).
        rate: the metric on the rate axis.

    Raises:
        ValueError: the method is unknown.
    """
    _check(method)
    pairs = anchor.pairs(metric, rate), test.pairs(metric, rate)
    problem = _too_few(pairs, metric, method)
    if problem is None and any(_repeats([r for r, _ in side]) for side in pairs):
        problem = "several values at one rate are no function of the rate"
    if problem is not None:
        return Delta(reason=problem)
    low, high, overlap = _shared([[math.log10(r) for r, _ in side] for side in pairs])
    if overlap <= 0:
        return Delta(reason=_apart("rates", [[r for r, _ in side] for side in pairs]))

    from bjontegaard import bd_psnr

    columns = [list(column) for side in pairs for column in zip(*side, strict=True)]
    value = bd_psnr(*columns, method=method, require_matching_points=False, min_overlap=0)
    return _finished(float(value), 10**low, 10**high, overlap)


def bd_rate(
    anchor: Line, test: Line, metric: str, *, method: str = "akima", rate: str = "bpp"
) -> Delta:
    """Mean difference of the rate in per cent at equal values of a metric (BD-rate).

    Args:
        anchor, test: the curves.
        metric: of either sign; it must be monotonic in the rate.
        method: as in `bd_metric`.
        rate: the metric on the rate axis.

    Raises:
        ValueError: the method is unknown.
    """
    _check(method)
    pairs = anchor.pairs(metric, rate), test.pairs(metric, rate)
    problem = _too_few(pairs, metric, method)
    if problem is None and not all(_steady([v for _, v in side]) for side in pairs):
        problem = f"{metric} does not change steadily with the rate"
    if problem is not None:
        return Delta(reason=problem)
    by_value = [sorted(side, key=lambda pair: pair[1]) for side in pairs]
    low, high, overlap = _shared([[v for _, v in side] for side in by_value])
    if overlap <= 0:
        return Delta(reason=_apart(f"values of {metric}", [[v for _, v in s] for s in by_value]))

    from bjontegaard import bd_rate as library

    columns = [list(column) for side in by_value for column in zip(*side, strict=True)]
    value = library(*columns, method=method, require_matching_points=False, min_overlap=0)
    return _finished(float(value), low, high, overlap)


def _check(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"unknown interpolation {method!r}, choose from {', '.join(METHODS)}")


def _too_few(pairs: Sequence[Sequence[object]], metric: str, method: str) -> str | None:
    for side, who in zip(pairs, ("the anchor", "this curve"), strict=True):
        if not side:
            return f"{who} has no {metric}"
        if len(side) < 2:
            return f"{who} has a single point"
        if method == "cubic" and len(side) < CUBIC_POINTS:
            return f"a cubic needs {CUBIC_POINTS} points, {who} has {len(side)}"
    return None


def _repeats(values: Sequence[float]) -> bool:
    return any(a == b for a, b in pairwise(values))


def _steady(values: Sequence[float]) -> bool:
    steps = [b - a for a, b in pairwise(values)]
    return all(step > 0 for step in steps) or all(step < 0 for step in steps)


def _shared(axes: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Ends of the shared range, and its share of the joint range."""
    low, high = max(min(axis) for axis in axes), min(max(axis) for axis in axes)
    whole = max(max(axis) for axis in axes) - min(min(axis) for axis in axes)
    return low, high, (high - low) / whole


def _apart(what: str, axes: Sequence[Sequence[float]]) -> str:
    ranges = " and ".join(f"{min(axis):.4g} to {max(axis):.4g}" for axis in axes)
    return f"the {what} do not overlap: {ranges}"


def _finished(value: float, low: float, high: float, overlap: float) -> Delta:
    if not math.isfinite(value):
        return Delta(reason="the interpolation gave no finite value")
    return Delta(value, low, high, overlap)
