"""Noise levels that each cost what is sent at them, whatever the model and the image are.

From the level s to the level n the sender gives away

    KL = E / (2 ln 2) (1 / n^2 - 1 / s^2)   bits,   E = |x0 - D(x_s; s)|^2,

the KL divergence of N(r x_s + (1 - r) x0, v) from N(r x_s + (1 - r) D, v), r = n^2 / s^2 and
v = (1 - r) n^2 (Vonderfecht & Liu 2025, Sec. 3; Ho et al. 2020, Sec. 4.3). What is sent at a level
fixes KL, and the next level follows from it and E, which the sender tells: in 7 bits for the first
level, in 2 more for each.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

FIRST_BITS, STEP_BITS = 7, 2
_FIRST_STEPS = 8  # per octave
_FIRST_LOWEST = -12  # log2 of the lowest mean squared error that can be told; the highest is 15
# log2 of what a level's error is of the last one's.
_STEPS = (-0.36, -0.17, 0.0, 0.2)


@dataclass(frozen=True)
class Level:
    """A level that is sent.

    Attributes:
        number: 0, 1, 2, …
        count: how many chunks its numbers are cut into.
        sigma, next_sigma: from which noise level to which it leads.
    """

    number: int
    count: int
    sigma: float
    next_sigma: float


class Ladder:
    """The levels of one image, opened one after the other by what the sender tells.

    Args:
        counts: chunks of level 0, 1, 2, …
        bits: KL divergence that a chunk is meant to have.
        num_values: how many numbers are sent.
        sigma, min_sigma: the noise levels of the start and of the end.
        first: index of the mean squared error there, in FIRST_BITS bits.
    """

    def __init__(
        self,
        counts: Iterator[int],
        bits: float,
        *,
        num_values: int,
        sigma: float,
        min_sigma: float,
        first: int,
    ) -> None:
        self._counts = counts
        self._bits = bits
        self._min_sigma = min_sigma
        self._num_values = num_values
        self._number = 0
        self._sigma = sigma
        self._mean = self._first_mean = 2.0 ** (first / _FIRST_STEPS + _FIRST_LOWEST)

    @property
    def done(self) -> bool:
        """Whether there is no level left."""
        return self._sigma <= self._min_sigma

    def index_of(self, mean: float) -> int:
        """The index, in STEP_BITS bits, that comes closest to a mean squared error."""
        change = math.log2(max(mean, 1e-30) / self._mean)
        return min(range(len(_STEPS)), key=lambda index: abs(_STEPS[index] - change))

    def open(self, index: int) -> Level:
        """The next level, for such an index; the last ends at the lowest noise level."""
        # An estimate that knows more errs less: what says otherwise, again and again, would be a
        # ladder without end.
        self._mean = min(self._mean * 2.0 ** _STEPS[index], self._first_mean)
        count = next(self._counts)
        energy = self._mean * self._num_values
        level = Level(
            number=self._number,
            count=count,
            sigma=self._sigma,
            next_sigma=max(self._min_sigma, next_sigma(self._sigma, energy, count * self._bits)),
        )
        self._number, self._sigma = self._number + 1, level.next_sigma
        return level


def next_sigma(sigma: float, energy: float, bits: float) -> float:
    """The level that so many bits lead to from a level at which E is `energy`."""
    return (sigma**-2 + 2 * math.log(2) * bits / energy) ** -0.5


def first_index(mean: float) -> int:
    """The index, in FIRST_BITS bits, that comes closest to a mean squared error."""
    index = round(_FIRST_STEPS * (math.log2(max(mean, 2.0**_FIRST_LOWEST)) - _FIRST_LOWEST))
    return min(index, (1 << FIRST_BITS) - 1)
