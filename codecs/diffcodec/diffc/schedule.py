"""The number of chunks sent at each level: a fixed fraction of all chunks before it.

The number depends on the size of the image, not on its content. The next noise level follows from
the number and the error; see `diffcodec.zero_shot.ladder`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """The number of chunks of each level.

    Args:
        growth: number of chunks of a level, as a fraction of all chunks before it.
        bits: target KL divergence of a chunk in bits.
        max_length: maximum length of a chunk.

    Raises:
        ValueError: an argument is not positive.
    """

    growth: float
    bits: float
    max_length: int

    def __post_init__(self) -> None:
        if not (self.growth > 0 and self.bits > 0 and self.max_length > 0):
            raise ValueError(f"growth, bits and max_length must be positive, got {self}")

    def chunk_counts(self, num_values: int) -> Iterator[int]:
        """The numbers of chunks of levels 0, 1, 2, …, an infinite sequence.

        Args:
            num_values: number of values of the latent.
        """
        least, total = -(-num_values // self.max_length), 0
        while True:
            count = min(num_values, max(least, math.floor(self.growth * total)))
            # Chunks have equal lengths. Leave out those that would be empty.
            count = -(-num_values // -(-num_values // count))
            yield count
            total += count
