import math
from itertools import islice, pairwise

import pytest

from diffcodec.diffc.schedule import FIRST_BITS, STEP_BITS, Ladder, Schedule, first_index

SCHEDULE = Schedule(growth=0.25, bits=13.0, max_length=1 << 15)


def test_chunks_grow_with_what_was_sent():
    counts = list(islice(SCHEDULE.chunk_counts(24576), 30))
    assert counts[:4] == [1, 1, 1, 1]
    assert counts == sorted(counts)
    assert counts[29] / sum(counts[:29]) == pytest.approx(0.25, rel=0.02)


@pytest.mark.parametrize("num_values", [1, 7, 256, 24576, 1 << 22])
def test_no_chunk_is_too_long_or_empty(num_values):
    for count in islice(SCHEDULE.chunk_counts(num_values), 40):
        length = -(-num_values // count)
        assert length <= SCHEDULE.max_length
        assert (count - 1) * length < num_values


def test_a_level_costs_what_its_chunks_are_meant_to():
    sigma, energy, count = 2.0, 5000.0, 12
    n = SCHEDULE.next_sigma(sigma, energy, count)
    ratio = (n / sigma) ** 2
    mu_squared = (1 - ratio) ** 2 * energy / ((1 - ratio) * n**2)  # |mu|^2
    assert mu_squared / (2 * math.log(2)) == pytest.approx(13.0 * count)


def test_both_sides_go_down_the_same_ladder():
    means = [0.8 * 0.9**i for i in range(20)]
    sender = Ladder(SCHEDULE, 24576, 1e4, 0.04, first_index(0.8))
    told = [(index := sender.index_of(mean), sender.open(index)) for mean in means]
    receiver = Ladder(SCHEDULE, 24576, 1e4, 0.04, first_index(0.8))
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
        ladder = Ladder(SCHEDULE, num_values, 1e4, 0.04, 2**FIRST_BITS - 1)
        levels = 0
        while not ladder.done:
            last = ladder.open(2**STEP_BITS - 1).next_sigma
            levels += 1
        assert last == 0.04
        assert levels < 1000


def test_errors_have_an_index_whatever_they_are():
    assert first_index(0.0) == 0
    assert first_index(1e9) == 2**FIRST_BITS - 1
    ladder = Ladder(SCHEDULE, 100, 10.0, 0.04, 0)
    for mean in (0.0, 1e-9, 1.0, 1e9):
        assert 0 <= ladder.index_of(mean) < 2**STEP_BITS


@pytest.mark.parametrize("options", [{"growth": 0}, {"bits": -1.0}, {"max_length": 0}])
def test_what_is_not_positive_is_refused(options):
    with pytest.raises(ValueError, match="must be positive"):
        Schedule(**{"growth": 0.25, "bits": 13.0, "max_length": 9, **options})
