import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffcodec.coding.bits import BitReader, BitWriter, EndOfBitsError

numbers = st.lists(
    st.integers(0, 40).flatmap(
        lambda width: st.tuples(st.integers(0, 2**width - 1), st.just(width))
    )
)


@given(numbers)
def test_numbers_come_back(written):
    writer = BitWriter()
    for value, width in written:
        writer.write(value, width)
    data = writer.to_bytes()
    assert writer.num_bits == sum(width for _, width in written)
    assert len(data) == -(-writer.num_bits // 8)
    reader = BitReader(data)
    assert [reader.read(width) for _, width in written] == [value for value, _ in written]
    with pytest.raises(EndOfBitsError):
        reader.read(8)


@given(numbers, numbers)
def test_more_numbers_change_nothing_before_them(first, more):
    short, long = BitWriter(), BitWriter()
    for value, width in first:
        short.write(value, width)
    for value, width in first + more:
        long.write(value, width)
    whole = short.num_bits // 8
    assert long.to_bytes()[:whole] == short.to_bytes()[:whole]
