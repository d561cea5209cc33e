"""Values of curves at one rate, for realism against fidelity."""

import math
from collections.abc import Sequence

from experiments.comparison.lines import Line

TOLERANCE = 0.1  # a single point is used for rates within 10% of its own


def value_at(curve: Line, metric: str, bpp: float, rate: str = "bpp") -> float | None:
    """A curve's metric at a rate, by PCHIP over the logarithm of the rate; None out of range."""
    pairs = curve.pairs(metric, rate)
    near = [pair for pair in pairs if abs(math.log(pair[0] / bpp)) <= math.log(1 + TOLERANCE)]
    rates = [r for r, _ in pairs]
    if len(set(rates)) == len(rates) > 1 and rates[0] <= bpp <= rates[-1]:
        from scipy.interpolate import PchipInterpolator

        logs = [math.log(r) for r in rates]
        return float(PchipInterpolator(logs, [value for _, value in pairs])(math.log(bpp)))
    if not near:
        return None
    return min(near, key=lambda pair: abs(math.log(pair[0] / bpp)))[1]


def common_rates(
    curves: Sequence[Line], metrics: Sequence[str], count: int = 3, rate: str = "bpp"
) -> list[float]:
    """Rates that most of the curves with these metrics reach, evenly spaced in their range."""
    candidates = sorted({r for curve in curves for r, _ in curve.pairs(metrics[0], rate)})
    if not candidates:
        return []
    reached = {
        bpp: sum(
            all(value_at(curve, metric, bpp, rate) is not None for metric in metrics)
            for curve in curves
        )
        for bpp in candidates
    }
    most = max(reached.values())
    best = [bpp for bpp in candidates if reached[bpp] == most]
    if not most:
        return []
    low, high = best[0], best[-1]
    if high <= low * (1 + TOLERANCE):
        return [math.sqrt(low * high)]
    return [low * (high / low) ** ((2 * i + 1) / (2 * count)) for i in range(count)]
