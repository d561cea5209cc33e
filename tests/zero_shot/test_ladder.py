import math
from itertools import count, pairwise

import pytest

from diffcodec.zero_shot.ladder import FIRST_BITS, STEP_BITS, Ladder, first_index, next_sigma


def new_ladder(first: int, num_values: int = 24576) -> Ladder:
    """One whose levels have ever more chunks of 13 bits each."""
    ends = {"sigma": 1e4, "min_sigma": 0.04}
    counts = (round(1.25**i) for i in count())
    return Ladder(counts, 13.0, num_values=num_values, **ends, first=first)


def test_a_level_costs_what_its_chunks_are_meant_to():
    sigma, energy, count = 2.0, 5000.0, 12
    n = next_sigma(sigma, energy, 13.0 * count)
    ratio = (n / sigma) ** 2
    mu_squared = (1 - ratio) ** 2 * energy / ((1 - ratio) * n**2)  # |mu|^2
    assert mu_squared / (2 * math.log(2)) == pytest.approx(13.0 * count)


def test_both_sides_go_down_the_same_ladder():
    means = [0.8 * 0.9**i for i in range(20)]
    sender = new_ladder(first_index(0.8))
    told = [(index := sender.index_of(mean), sender.open(index)) for mean in means]
    receiver = new_ladder(first_index(0.8))
    levels = [receiver.open(index) for index, _ in told]
    assert levels == [level for _, level in told]
    assert [level.number for level in levels] == list(range(20))
    for last, level in pairwise(levels):
        assert level.sigma == last.next_sigma
        assert level.next_sigma < level.sigma
    # What was told stays close to what is.
    energy = 2 * math.log(2) * 13.0 * levels[-1].count
    energy /= levels[-1].next_sigma ** -2 - levels[-1].sigma ** -2
    assert energy / 24576 == pytest.approx(means[-1], rel=0.15)


def test_no_ladder_is_without_end():
    for num_values in (4, 256, 24576):
        ladder = new_ladder(2**FIRST_BITS - 1, num_values)
        levels = 0
        while not ladder.done:
            last = ladder.open(2**STEP_BITS - 1).next_sigma
            levels += 1
        assert last == 0.04
        assert levels < 1000


def test_errors_have_an_index_whatever_they_are():
    assert first_index(0.0) == 0
    assert first_index(1e9) == 2**FIRST_BITS - 1
    ladder = new_ladder(0, 100)
    for mean in (0.0, 1e-9, 1.0, 1e9):
        assert 0 <= ladder.index_of(mean) < 2**STEP_BITS
