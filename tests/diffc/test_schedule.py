from itertools import islice

import pytest

from diffcodec.diffc.schedule import Schedule

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


@pytest.mark.parametrize("options", [{"growth": 0}, {"bits": -1.0}, {"max_length": 0}])
def test_what_is_not_positive_is_refused(options):
    with pytest.raises(ValueError, match="must be positive"):
        Schedule(**{"growth": 0.25, "bits": 13.0, "max_length": 9, **options})
