import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffcodec.coding.combinations import least_bits, num_bits, rank, unrank


@st.composite
def sets(draw):
    """A number K, and a set of numbers below it, rising."""
    size = draw(st.one_of(st.integers(1, 40), st.integers(1, 1 << 18)))
    numbers = draw(st.sets(st.integers(0, size - 1), max_size=60))
    return size, sorted(numbers)


@given(sets())
def test_sets_come_back(drawn):
    size, numbers = drawn
    number = rank(numbers)
    assert 0 <= number < math.comb(size, len(numbers))
    assert number == sum(math.comb(c, i) for i, c in enumerate(numbers, 1))
    assert unrank(number, len(numbers), size) == numbers


@given(st.integers(1, 3000), st.data())
def test_ranks_come_back(size, data):
    count = data.draw(st.integers(0, min(size, 50)))
    number = data.draw(st.integers(0, math.comb(size, count) - 1))
    found = unrank(number, count, size)
    assert found == sorted(set(found))
    assert all(0 <= c < size for c in found)
    assert rank(found) == number


@pytest.mark.parametrize(("size", "count"), [(1, 1), (6, 0), (6, 3), (7, 7), (9, 2)])
def test_every_set_has_a_rank_of_its_own(size, count):
    ranks = {rank(numbers) for numbers in combinations(range(size), count)}
    assert ranks == set(range(math.comb(size, count)))


@pytest.mark.parametrize("numbers", [range(2000), range(1 << 17, (1 << 17) + 2000)])
def test_large_sets_come_back(numbers):
    number = rank(list(numbers))
    assert number == sum(math.comb(c, i) for i, c in enumerate(numbers, 1))
    assert unrank(number, 2000, 1 << 18) == list(numbers)


@given(st.integers(1, 1 << 20), st.data())
def test_a_rank_takes_as_many_bits_as_there_are_sets(size, data):
    count = data.draw(st.integers(1, min(size, 100)))
    bits = num_bits(size, count)
    assert 2 ** (bits - 1) < math.comb(size, count) <= 2**bits or math.comb(size, count) == 1
    assert least_bits(size, count) <= bits + 1e-6
