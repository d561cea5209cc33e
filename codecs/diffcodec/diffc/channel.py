"""Reverse channel coding: a vector mu is sent as the index of a shared random candidate.

Both sides share K candidates z_1 … z_K for each chunk of numbers. The sender knows mu and sends the
index of one candidate. The receiver thus gets approximately mu plus noise of unit variance, for far
fewer bits than the numbers themselves would take (Theis et al. 2022, Sec. 3).

Candidate k is the first d entries of row k of

    H D2 H D1 / sqrt(K)

of `diffcodec.coding.hadamard`, where chunk c has its own matrix, number c. The receiver does not
depend on how the sender computes its scores.
"""

import math
from abc import ABC, abstractmethod
from functools import cache

import numpy as np
import torch
from torch import Tensor

from diffcodec.coding.hadamard import (
    ARRIVALS,
    hadamard_rows,
    inner_products,
    philox,
    random_signs,
    walsh_hadamard,
)

MAX_LOG2_CANDIDATES = 20
_VALUES_PER_BATCH = 1 << 21  # float32 values in each of a few temporary tensors


class Channel(ABC):
    """Sends chunks of numbers as indices of shared random candidates.

    Args:
        log2_candidates: log2 K, in 1 to 20.

    Raises:
        ValueError: log2 K is out of range.
    """

    def __init__(self, log2_candidates: int) -> None:
        if not 1 <= log2_candidates <= MAX_LOG2_CANDIDATES:
            raise ValueError(
                f"log2 of the number of candidates must be in 1 to {MAX_LOG2_CANDIDATES}, "
                f"got {log2_candidates}"
            )
        self.log2_candidates = log2_candidates
        self.num_candidates = 1 << log2_candidates

    @property
    @abstractmethod
    def num_indices(self) -> int:
        """The number of indices; they are in [0, num_indices)."""

    @property
    @abstractmethod
    def useful_bits(self) -> float:
        """The KL divergence of a chunk, in bits, that suits the number of candidates."""

    @abstractmethod
    def choose(self, scores: Tensor, key: int, first: int) -> Tensor:
        """Choose candidates by their inner products with mu.

        Args:
            scores: inner products, (n, K).
            key: key of the shared randomness.
            first: number of the first chunk.

        Returns:
            Indices, (n,).
        """

    @abstractmethod
    def split(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Indices (n,) -> the candidates' rows, (n,), and their signs, +1 or -1, (n,)."""

    def encode(self, mu: Tensor, key: int) -> tuple[Tensor, Tensor]:
        """Choose a candidate for each chunk.

        Args:
            mu: chunks, (n, d) with d in 1 to K; float32 or float64.
            key: key of the shared randomness, different for each set of chunks.

        Returns:
            Indices, (n,) int64 on the CPU, and the samples that the receiver decodes from them,
            (n, d) float32 on the device of mu.
        """
        self._check_length(mu.shape[1])
        indices, samples = [], []
        for first, part in self._batches(mu):
            signs = self._signs(key, first, len(part), mu.device)
            chosen = self.choose(inner_products(part, *signs), key, first)
            indices.append(chosen.cpu())
            samples.append(self._rows(chosen, mu.shape[1], *signs))
        if not indices:
            return torch.zeros(0, dtype=torch.int64), mu.new_zeros(mu.shape, dtype=torch.float32)
        return torch.cat(indices), torch.cat(samples)

    def decode(self, indices: Tensor, length: int, key: int) -> Tensor:
        """The samples that `encode` returned for the first n chunks, (n, length) float32.

        Args:
            indices: indices, (n,) in [0, num_indices).
            length: length d of a chunk, in 1 to K.
            key: key of the encoder.
        """
        self._check_length(length)
        samples = [
            self._rows(part, length, *self._signs(key, first, len(part), indices.device))
            for first, part in self._batches(indices)
        ]
        if not samples:
            return torch.zeros(0, length, device=indices.device)
        return torch.cat(samples)

    def scores(self, mu: Tensor, key: int) -> Tensor:
        """Inner products of all rows with mu (n, d) -> (n, K)."""
        return inner_products(mu, *self._signs(key, 0, len(mu), mu.device))

    def _rows(self, indices: Tensor, length: int, signs_1: Tensor, signs_2: Tensor) -> Tensor:
        rows, sign = self.split(indices)
        # Integers up to K in absolute value, until the scaling. float32 represents them exactly,
        # but only float64 is safe from autocast and from fast float32 matrix products.
        whole = walsh_hadamard(signs_2.double() * hadamard_rows(rows, self.num_candidates))
        exact = whole[:, :length] * signs_1[:, :length] * sign[:, None]
        return (exact / math.sqrt(self.num_candidates)).float()

    def _signs(
        self, key: int, first: int, count: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        return random_signs(key, first, count, self.num_candidates, device)

    def _batches(self, values: Tensor) -> list[tuple[int, Tensor]]:
        count = max(1, _VALUES_PER_BATCH // self.num_candidates)
        return [(i, values[i : i + count]) for i in range(0, len(values), count)]

    def _check_length(self, length: int) -> None:
        if not 1 <= length <= self.num_candidates:
            raise ValueError(f"a chunk must have 1 to {self.num_candidates} numbers, got {length}")


class Nearest(Channel):
    """Choose the candidate, or its negative, with the largest inner product with mu.

    This is a random codebook of 2K vectors with log2(2K) bits for every chunk. The negatives double
    the number of candidates at no computational cost. Orthogonally to mu, the sample is distributed
    like N(mu, I). Along mu, it lies at the largest of 2K standard normal numbers (4.3 for 16 bits),
    with a tenth of the variance. For a KL of 14 bits, it reaches 0.90 |mu| with 2^13 candidates in
    14 bits; the Poisson functional representation reaches 0.87 |mu| with 2^16 candidates in 13.9
    bits.
    """

    @property
    def num_indices(self) -> int:
        return 2 * self.num_candidates

    @property
    def useful_bits(self) -> float:
        # The KL of a mu whose length is the mean of the largest of N = 2K standard normal numbers.
        root = math.sqrt(2 * math.log(self.num_indices))
        largest = root - (math.log(math.log(self.num_indices) * 4 * math.pi) / 2 - 0.5772) / root
        return max(largest, 0.5) ** 2 / (2 * math.log(2))

    def choose(self, scores: Tensor, key: int, first: int) -> Tensor:
        best = scores.abs().argmax(1)
        negative = scores.gather(1, best[:, None])[:, 0] < 0
        return 2 * best + negative.long()

    def split(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        return indices >> 1, 1.0 - 2 * (indices & 1)


class Poisson(Channel):
    """The Poisson functional representation (Li & El Gamal 2018): a sample of N(mu, I).

    Let T_k be the arrival times of a Poisson process, and w_k = exp(z_k mu - |mu|^2 / 2) the
    density ratio of N(mu, I) and N(0, I) at z_k. The chosen k minimizes T_k / w_k. If K is well
    above 2^KL, KL = |mu|^2 / (2 ln 2), the sample is distributed as N(mu, I), and the index costs
    about KL + log2(KL + 1) + 1 bits by Zipf's law.

    Index k refers to the row whose number has the bits of k in reverse order. If mu is short, the
    inner products with rows whose numbers differ only in the low bits are correlated. Without the
    reversal, such rows would have the first indices, which are chosen most often.
    """

    @property
    def num_indices(self) -> int:
        return self.num_candidates

    @property
    def useful_bits(self) -> float:
        return max(self.log2_candidates - 2.0, 0.5)

    def choose(self, scores: Tensor, key: int, first: int) -> Tensor:
        size = self.num_candidates
        words = np.stack([philox(key, first + i, ARRIVALS, size) for i in range(len(scores))])
        uniform = ((words >> np.uint64(11)) + 0.5) * 2.0**-53  # in (0, 1)
        log_times = torch.from_numpy(np.log(np.cumsum(-np.log(uniform), axis=1)))
        return (log_times.to(scores) - scores[:, _reversed_bits(size).to(scores.device)]).argmin(1)

    def split(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        rows = _reversed_bits(self.num_candidates).to(indices.device)[indices]
        return rows, torch.ones(len(indices), device=indices.device)


CHANNELS: dict[str, type[Channel]] = {"nearest": Nearest, "poisson": Poisson}


def find_channel(name: str) -> type[Channel]:
    """The channel with this name.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in CHANNELS:
        raise ValueError(f"unknown channel {name!r}, choose from {', '.join(CHANNELS)}")
    return CHANNELS[name]


@cache
def _reversed_bits(size: int) -> Tensor:
    """The numbers 0 … size - 1, a power of two, with their bits in reverse order."""
    numbers = torch.zeros(1, dtype=torch.int64)
    while len(numbers) < size:
        numbers = torch.cat([2 * numbers, 2 * numbers + 1])
    return numbers
