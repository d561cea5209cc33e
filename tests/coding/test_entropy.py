import contextlib
import math
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffcodec.coding.bitstream import BitstreamError
from diffcodec.coding.entropy import (
    MAX_TEXT_BYTES,
    decode_indices,
    decode_text,
    encode_indices,
    encode_text,
    indices_num_bytes,
)


@given(st.integers(1, 10_000), st.data())
def test_indices_round_trip(num_codes, data):
    indices = data.draw(st.lists(st.integers(0, num_codes - 1), max_size=70))
    encoded = encode_indices(indices, num_codes)
    assert len(encoded) == indices_num_bytes(len(indices), num_codes)
    assert decode_indices(encoded, len(indices), num_codes) == indices


@given(st.integers(2, 10_000), st.integers(1, 300))
def test_indices_cost_log2_of_the_codebook(num_codes, count):
    exact = count * math.log2(num_codes) / 8
    assert exact - 1e-9 <= indices_num_bytes(count, num_codes) < exact + 1 + 1e-9


def test_8196_codes_cost_13_0007_bits_not_14():
    # PerCo's 32x32/8196: 0.0507 bpp at 512x512 (Table 2).
    assert indices_num_bytes(32 * 32, 8196) == math.ceil(32 * 32 * math.log2(8196) / 8) == 1665


@given(st.integers(2, 300), st.integers(1, 40), st.binary(max_size=60))
def test_foreign_bytes_are_indices_in_range_or_refused(num_codes, count, data):
    try:
        indices = decode_indices(data, count, num_codes)
    except BitstreamError:
        return
    assert len(indices) == count
    assert all(0 <= i < num_codes for i in indices)


def test_indices_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"\[0, 5\), got 0, 5"):
        encode_indices([0, 5], 5)
    with pytest.raises(BitstreamError, match="outside"):
        decode_indices(b"\xff", 1, 200)


@pytest.mark.parametrize("num_codes", [256, 8196])
def test_a_4k_image_of_indices_is_coded_in_seconds(num_codes):
    indices = torch.randint(num_codes, (3840 // 8 * 2160 // 8,)).tolist()
    start = time.perf_counter()
    assert decode_indices(encode_indices(indices, num_codes), len(indices), num_codes) == indices
    assert time.perf_counter() - start < 20


@given(st.text(max_size=400))
def test_text_round_trip(text):
    assert decode_text(encode_text(text)) == text


@given(st.text(min_size=1, max_size=40), st.data())
def test_truncated_text_is_refused(text, data):
    encoded = encode_text(text)
    with pytest.raises(BitstreamError):
        decode_text(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


@given(st.binary(max_size=100))
def test_foreign_bytes_are_text_or_refused(data):
    with contextlib.suppress(BitstreamError):
        assert isinstance(decode_text(data), str)


def test_a_decompression_bomb_is_refused():
    import zlib

    with pytest.raises(BitstreamError, match="over"):
        decode_text(zlib.compress(bytes(50_000_000)))
    with pytest.raises(ValueError, match="over"):
        encode_text("x" * (MAX_TEXT_BYTES + 1))
