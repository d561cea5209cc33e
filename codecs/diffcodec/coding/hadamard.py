"""Shared random vectors: rows of H D2 H D1 / sqrt(K), computed by fast transforms.

H is the Walsh-Hadamard matrix of size K; D1 and D2 are diagonal matrices of random signs. An entry
is a sum of K random signs divided by sqrt(K), which is Gaussian to four digits. Two transforms
compute all K inner products with a vector. Two transforms also compute a sum of rows; it is exact
in integers before a single scaling, so the result is the same on every machine and device and with
any number of threads.

The signs of a matrix are the bits, lowest first, of the 64-bit words of Philox-4x64-10 (Salmon et
al. 2011; `numpy.random.Philox.random_raw`) for the key (`key`, 0) and the counter
(0, 0, number, 0). The first K bits are D1, the next K bits are D2; a bit of 1 is a sign of -1.
"""

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

_LARGEST_FACTOR = 16  # largest matrix in the factorization of a transform
SIGNS, ARRIVALS = 0, 1  # last word of Philox's counter


def random_signs(
    key: int, first: int, count: int, size: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """D1 and D2 of `count` matrices from number `first` on, (count, size) of +1 and -1 each."""
    num_words = -(-2 * size // 64)
    words = np.stack([philox(key, first + i, SIGNS, num_words) for i in range(count)])
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), axis=1, bitorder="little")
    signs = 1 - 2 * torch.from_numpy(bits[:, : 2 * size]).to(device, torch.float32)
    return signs[:, :size], signs[:, size:]


def inner_products(x: Tensor, signs_1: Tensor, signs_2: Tensor) -> Tensor:
    """Inner products of all rows of H D2 H D1 / sqrt(K) with x (n, d), d <= K -> (n, K)."""
    size = signs_1.shape[1]
    # Since H is symmetric, this multiplies H D2 H D1 by x, which is padded with zeros.
    filled = torch.nn.functional.pad(x, (0, size - x.shape[1])) * signs_1.to(x.dtype)
    out = walsh_hadamard(walsh_hadamard(filled) * signs_2.to(x.dtype))
    return out / math.sqrt(size)


def philox(key: int, number: int, purpose: int, count: int) -> np.ndarray:
    """64-bit words of Philox-4x64-10 for the key (`key`, 0), (count,) uint64.

    Args:
        key: key of the shared randomness.
        number, purpose: last two words of the counter (0, 0, number, purpose).
        count: number of words.
    """
    counter = np.array([0, 0, number, purpose], dtype=np.uint64)
    words: np.ndarray = np.random.Philox(key=_key(key, 0), counter=counter).random_raw(count)
    return words


def permutation(size: int, key: int) -> Tensor:
    """A shared random permutation of 0 … size - 1, (size,) int64, the same on every machine.

    It sorts the words of Philox for the key (`key`, 1) and the counter 0.
    """
    words = np.random.Philox(key=_key(key, 1)).random_raw(size)
    return torch.from_numpy(np.argsort(words, kind="stable"))


def walsh_hadamard(x: Tensor) -> Tensor:
    """The unscaled Walsh-Hadamard transform over the last dimension, whose size is a power of two.

    It multiplies by matrices of at most 16 rows, H_ab = H_a (x) H_b, which is faster than single
    additions. Sums of integers are exact below 2^24 (float32) or 2^53 (float64).
    """
    size, shape = x.shape[-1], x.shape
    done = 1
    while done < size:
        factor = min(_LARGEST_FACTOR, size // done)
        matrix = _hadamard(factor).to(x)
        grid = x.reshape(-1, factor, done)
        # The innermost factor is one product with many rows.
        x = grid[..., 0] @ matrix if done == 1 else matrix @ grid
        done *= factor
    return x.reshape(shape)


def hadamard_rows(indices: Tensor, size: int) -> Tensor:
    """Rows (n,) of the Walsh-Hadamard matrix of a size -> (n, size) of +1 and -1, float32."""
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
