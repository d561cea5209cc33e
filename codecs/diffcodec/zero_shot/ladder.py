"""Noise levels that match the bits sent at each level, for any model and image.

From noise level s to noise level n, the sender transmits

    KL = E / (2 ln 2) (1 / n^2 - 1 / s^2)   bits,   E = |x0 - D(x_s; s)|^2,

the KL divergence of N(r x_s + (1 - r) x0, v) from N(r x_s + (1 - r) D, v), r = n^2 / s^2 and
v = (1 - r) n^2 (Vonderfecht & Liu 2025, Sec. 3; Ho et al. 2020, Sec. 4.3). The number of bits at a
level determines KL, and the next noise level n follows from KL and E. The sender transmits the
error E / N for N values: in 7 bits before the first level, and its change in 2 bits at each level.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

FIRST_BITS, STEP_BITS = 7, 2
_FIRST_STEPS = 8  # per octave
_FIRST_LOWEST = -12  # log2 of the lowest mean squared error in the code; the highest error is 15
# log2 of the ratio of a level's error to that of the level before.
_STEPS = (-0.36, -0.17, 0.0, 0.2)


@dataclass(frozen=True)
class Level:
    """One level of a stream.

    Attributes:
        number: number of the level, from 0.
        count: number of chunks that the latent's values are split into.
        sigma, next_sigma: noise levels before and after it.
    """

    number: int
    count: int
    sigma: float
    next_sigma: float


class Ladder:
    """The levels of one image, opened one after the other with the indices that are sent.

    Args:
        counts: numbers of chunks of levels 0, 1, 2, …
        bits: target KL divergence of a chunk in bits.
        num_values: number of values of the latent.
        sigma, min_sigma: first and last noise level.
        first: index of the mean squared error at the first level, in FIRST_BITS bits.
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
        """Whether no level is left to open."""
        return self._sigma <= self._min_sigma

    def index_of(self, mean: float) -> int:
        """The index, in STEP_BITS bits, closest to a mean squared error at the next level."""
        change = math.log2(max(mean, 1e-30) / self._mean)
        return min(range(len(_STEPS)), key=lambda index: abs(_STEPS[index] - change))

    def open(self, index: int) -> Level:
        """Open the next level with its error's index; the last ends at the lowest noise level."""
        # The error should fall from level to level. If it could grow without limit, there could be
        # infinitely many levels.
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
    """The noise level reached from `sigma` with `bits` bits, if E is `energy`."""
    return (sigma**-2 + 2 * math.log(2) * bits / energy) ** -0.5


def first_index(mean: float) -> int:
    """The index, in FIRST_BITS bits, closest to a mean squared error at the first level."""
    index = round(_FIRST_STEPS * (math.log2(max(mean, 2.0**_FIRST_LOWEST)) - _FIRST_LOWEST))
    return min(index, (1 << FIRST_BITS) - 1)
