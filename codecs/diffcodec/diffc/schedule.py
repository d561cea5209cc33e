"""How many chunks are sent at each level: a share of all before it, which costs about alike.

The number of chunks of a level is fixed by the size of the image, the next level by that number and
the error, see `diffcodec.zero_shot.ladder`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """The number of chunks of each level.

    Args:
        growth: chunks of a level as a share of all those before it.
        bits: KL divergence that a chunk is meant to have.
        max_length: numbers that a chunk may have.

    Raises:
        ValueError: one of these is not positive.
    """

    growth: float
    bits: float
    max_length: int

    def __post_init__(self) -> None:
        if not (self.growth > 0 and self.bits > 0 and self.max_length > 0):
            raise ValueError(f"growth, bits and max_length must be positive, got {self}")

    def chunk_counts(self, num_values: int) -> Iterator[int]:
        """The number of chunks of level 0, 1, 2, …, without end, for so many numbers."""
        least, total = -(-num_values // self.max_length), 0
        while True:
            count = min(num_values, max(least, math.floor(self.growth * total)))
            # Chunks are equally long: as many of that length as are not empty.
            count = -(-num_values // -(-num_values // count))
            yield count
            total += count
