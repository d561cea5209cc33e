"""Combinatorial number system: a set of numbers <-> its rank (Lehmer 1964), without tables.

The set c_1 < c_2 < … < c_M of numbers below K has the rank

    C(c_1, 1) + C(c_2, 2) + … + C(c_M, M)   in [0, C(K, M)).

Binomial coefficients are exact integers. Each is updated from the one before, which is much faster
than a new computation if a set has thousands of numbers.
"""

import math
from collections.abc import Sequence


def num_bits(size: int, count: int) -> int:
    """The bits of the rank of a set of `count` numbers below `size`: ceil(log2 C(size, count))."""
    return (math.comb(size, count) - 1).bit_length()


def least_bits(size: int, count: int) -> float:
    """A lower bound of `num_bits`, computed without large integers; count in 1 to size."""
    return count * math.log2(size / count)  # C(K, M) >= (K / M)^M


def rank(numbers: Sequence[int]) -> int:
    """The rank of a set of numbers, which are distinct, increasing and at least 0."""
    total, last, value = 0, 0, 1
    for count, number in enumerate(numbers, 1):
        # C(last, count - 1) -> C(last + 1, count) -> C(number + 1, count), which is never 0.
        value = value * (last + 1) // count
        value = _raised(value, last + 1, count, number + 1)
        last = number + 1
        total += value * (last - count) // last
    return total


def unrank(rank: int, count: int, size: int) -> list[int]:
    """Inverse of `rank`: the `count` numbers below `size`, increasing.

    Args:
        rank: rank of the set, in [0, C(size, count)).
        count: M, in 0 to size.
        size: K.
    """
    numbers = []
    top, value = size, math.comb(size, count)  # C(top, k)
    for k in range(count, 0, -1):
        # Find the largest number with C(number, k) <= rank. If rank is 0, C(k - 1, k) = 0.
        number = max(k, _guess(rank, k, top - 1))
        value = _lowered(value, top, k, number)
        while value > rank and number >= k:
            value = value * (number - k) // number
            number -= 1
        while (above := _raised(value, number, k, number + 1) if value else 1) <= rank:
            value, number = above, number + 1
        numbers.append(number)
        rank -= value
        # C(number, k) -> C(number, k - 1); `number` bounds the remaining numbers.
        top = number
        value = value * k // (number - k + 1) if value else 1
    return numbers[::-1]


def _raised(value: int, number: int, k: int, to: int) -> int:
    """C(number, k) -> C(to, k), number in k to `to`."""
    if to - number > k:  # a new computation has fewer factors
        return math.comb(to, k)
    above = math.prod(range(number + 1, to + 1))
    return value * above // math.prod(range(number - k + 1, to - k + 1))


def _lowered(value: int, number: int, k: int, to: int) -> int:
    """C(number, k) -> C(to, k), to in k to `number`."""
    if number - to > k:
        return math.comb(to, k)
    above = math.prod(range(to - k + 1, number - k + 1))
    return value * above // math.prod(range(to + 1, number + 1))


def _guess(rank: int, k: int, highest: int) -> int:
    """An estimate of the largest number, in k to `highest`, with C(number, k) <= rank."""
    wanted = math.log(rank) if rank else -1.0
    low, high = k, max(k, highest)
    while low < high:
        middle = (low + high + 1) // 2
        found = math.lgamma(middle + 1) - math.lgamma(k + 1) - math.lgamma(middle - k + 1)
        low, high = (middle, high) if found <= wanted else (low, middle - 1)
    return low
