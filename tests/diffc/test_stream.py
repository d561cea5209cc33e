import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffcodec.coding.bits import BitReader, BitWriter, EndOfBitsError
from diffcodec.coding.bitstream import BitstreamError
from diffcodec.diffc.channel import Nearest, Poisson
from diffcodec.diffc.stream import FixedLengthCode, ZipfCode, code_for


@given(st.sampled_from([1, 4, 9, 14]), st.sampled_from([2.0, 7.0, 12.0]), st.data())
def test_every_index_has_a_code(log2_size, divergence, data):
    indices = data.draw(st.lists(st.integers(0, 2**log2_size - 1), min_size=1, max_size=20))
    for code in (ZipfCode(log2_size, divergence), FixedLengthCode(log2_size)):
        writer = BitWriter()
        for index in indices:
            code.write(index, writer)
        reader = BitReader(writer.to_bytes())
        assert [code.read(reader) for _ in indices] == indices


def test_zipf_codes_are_within_a_seventh_of_a_bit_of_the_law():
    for log2_size, divergence in ((10, 8.0), (14, 12.0), (18, 16.0)):
        exponent = 1 + 1 / (divergence + np.log(np.e + 1) / np.e)
        law = np.arange(1, 2**log2_size + 1) ** -exponent
        law /= law.sum()
        code = ZipfCode(log2_size, divergence)
        lengths = np.concatenate(
            [np.full(2**o, code._codes[o][1] + o) for o in range(log2_size)]
            + [[code._codes[log2_size][1] + log2_size]]
        )
        assert (2.0 ** -lengths.astype(float)).sum() <= 1
        assert (law * lengths).sum() + (law * np.log2(law)).sum() < 1 / 7


@given(st.binary(max_size=20))
def test_any_bytes_are_indices_or_end_or_are_refused(data):
    code = ZipfCode(9, 7.0)
    reader = BitReader(data)
    try:
        while True:
            assert 0 <= code.read(reader) < 512
    except (EndOfBitsError, BitstreamError):
        pass


def test_a_candidate_that_is_not_there_is_refused():
    code = ZipfCode(3, 2.0)
    writer = BitWriter()
    writer.write(*code._codes[3])
    writer.write(5, 3)  # 8 is the only number of its octave
    with pytest.raises(BitstreamError, match="candidate 12 is outside"):
        code.read(BitReader(writer.to_bytes()))


def test_channels_have_their_codes():
    assert isinstance(code_for(Poisson(9), 7.0), ZipfCode)
    fixed = code_for(Nearest(9), 7.0)
    assert isinstance(fixed, FixedLengthCode)
    assert fixed.width == 10
