"""Shared random vectors by fast transforms: rows of H D2 H D1 / sqrt(K), the same everywhere.

H is the Walsh-Hadamard matrix of size K, D1 and D2 are diagonal matrices of random signs. An entry
is a sum of K random signs over sqrt(K), a Gaussian to four digits. All K inner products with a
vector are two transforms, and so is a sum of rows, which is exact in integers before its one
scaling: the same number on every machine, device and number of threads.

The signs of a matrix are the bits, lowest first, of the 64-bit words that Philox-4x64-10 gives
(Salmon et al. 2011, as `numpy.random.Philox.random_raw`) for the key (`key`, 0) and the counter
(0, 0, number, 0): first the K of D1, then the K of D2; a bit of 1 is a sign of -1.
"""

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

_LARGEST_FACTOR = 16  # of a transform
SIGNS, ARRIVALS = 0, 1  # last word of Philox's counter


def random_signs(
    key: int, first: int, count: int, size: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """D1 and D2 of the matrices number `first` and so on, (count, size) of +1 and -1 each."""
    num_words = -(-2 * size // 64)
    words = np.stack([philox(key, first + i, SIGNS, num_words) for i in range(count)])
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), axis=1, bitorder="little")
    signs = 1 - 2 * torch.from_numpy(bits[:, : 2 * size]).to(device, torch.float32)
    return signs[:, :size], signs[:, size:]


def inner_products(x: Tensor, signs_1: Tensor, signs_2: Tensor) -> Tensor:
    """Inner products of all rows of H D2 H D1 / sqrt(K) with x (n, d), d <= K -> (n, K)."""
    size = signs_1.shape[1]
    # H is symmetric: rows of H D2 H D1 times x, filled up with zeros.
    filled = torch.nn.functional.pad(x, (0, size - x.shape[1])) * signs_1.to(x.dtype)
    out = walsh_hadamard(walsh_hadamard(filled) * signs_2.to(x.dtype))
    return out / math.sqrt(size)


def philox(key: int, number: int, purpose: int, count: int) -> np.ndarray:
    """64-bit words of Philox-4x64-10 for the key (`key`, 0), (count,) uint64.

    Args:
        key: of the shared randomness.
        number, purpose: the counter is (0, 0, number, purpose).
        count: how many words.
    """
    counter = np.array([0, 0, number, purpose], dtype=np.uint64)
    words: np.ndarray = np.random.Philox(key=_key(key, 0), counter=counter).random_raw(count)
    return words


def permutation(size: int, key: int) -> Tensor:
    """A shared random order of the numbers 0 … size - 1, (size,) int64: the same everywhere.

    The order in which Philox's words for the key (`key`, 1) and the counter 0 sort.
    """
    words = np.random.Philox(key=_key(key, 1)).random_raw(size)
    return torch.from_numpy(np.argsort(words, kind="stable"))


def walsh_hadamard(x: Tensor) -> Tensor:
    """The Walsh-Hadamard transform, not scaled, of the last dimension, a power of two.

    By products with matrices of at most 16 rows, H_ab = H_a (x) H_b, which processors are better at
    than at single additions. Sums of integers that stay below 2^24 (float32) or 2^53 (float64) are
    exact.
    """
    size, shape = x.shape[-1], x.shape
    done = 1
    while done < size:
        factor = min(_LARGEST_FACTOR, size // done)
        matrix = _hadamard(factor).to(x)
        grid = x.reshape(-1, factor, done)
        # The innermost as one product with many rows.
        x = grid[..., 0] @ matrix if done == 1 else matrix @ grid
        done *= factor
    return x.reshape(shape)


def hadamard_rows(indices: Tensor, size: int) -> Tensor:
    """Rows of the Walsh-Hadamard matrix of a size, (n,) -> (n, size) of +1 and -1, float32."""
    inner = 1 << size.bit_length() // 2
    high = _hadamard(size // inner).to(indices.device)[indices // inner]
    low = _hadamard(inner).to(indices.device)[indices % inner]
    return (high[:, :, None] * low[:, None, :]).reshape(len(indices), size)


@cache
def _hadamard(size: int) -> Tensor:
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def _key(key: int, purpose: int) -> np.ndarray:
    return np.array([key, purpose], dtype=np.uint64)
