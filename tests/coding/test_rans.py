import math
from itertools import pairwise
from statistics import NormalDist

import pytest
import torch
from compressai._CXX import pmf_to_quantized_cdf
from compressai.ans import RansDecoder
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from compressai.models.base import get_scale_table
from hypothesis import given
from hypothesis import strategies as st

from diffcodec.coding.bitstream import BitstreamError
from diffcodec.coding.rans import (
    MAX_SYMBOL,
    RansReader,
    Tables,
    conditional_tables,
    factorized_tables,
    guard_rans,
    rans_decode,
    rans_encode,
)


@pytest.fixture(scope="module")
def gaussian() -> Tables:
    return conditional_tables(GaussianConditional(None), get_scale_table())


def test_rans_round_trip_with_outliers(gaussian):
    generator = torch.Generator().manual_seed(0)
    indexes = torch.randint(64, (3, 5, 7), generator=generator)
    symbols = (torch.randn(3, 5, 7, generator=generator) * 30).round().int()
    symbols[0, 0, 0] = 100_000  # far outside every table: coded by the bypass
    data = rans_encode(symbols, indexes, gaussian)
    assert torch.equal(rans_decode(data, indexes, gaussian), symbols)


def test_many_symbols_are_coded_in_parts(gaussian, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    indexes = torch.randint(64, (100,), generator=generator)
    symbols = (torch.randn(100, generator=generator) * 30).round().int()
    data = rans_encode(symbols, indexes, gaussian)
    monkeypatch.setattr("diffcodec.coding.rans._SYMBOLS_AT_ONCE", 7)
    assert rans_encode(symbols, indexes, gaussian) == data
    assert torch.equal(rans_decode(data, indexes, gaussian), symbols)


def test_symbols_are_read_in_any_parts(gaussian):
    generator = torch.Generator().manual_seed(0)
    indexes = torch.randint(64, (7000,), generator=generator)
    symbols = (torch.randn(7000, generator=generator) * 30).round().int()
    reader = RansReader(rans_encode(symbols, indexes, gaussian), 7000, gaussian)
    parts = indexes.split([1, 2, 0, 3000, 3997])  # few take the tables that they need alone
    assert torch.equal(torch.cat([reader.read(part) for part in parts]), symbols)


def test_gaussian_tables_are_those_of_the_error_function_in_float64(gaussian):
    beyond = -NormalDist().inv_cdf(GaussianConditional(None).tail_mass / 2)
    for i, scale in enumerate(get_scale_table().tolist()):
        center = math.ceil(scale * beyond)
        tails = [math.erfc((k - 0.5) / scale / math.sqrt(2)) / 2 for k in range(center + 2)]
        side = [inner - outer for inner, outer in pairwise(tails)]
        expected = pmf_to_quantized_cdf([*side[:0:-1], *side, 2 * tails[-1]], 16)
        assert gaussian.offsets[i] == -center
        assert gaussian.lengths[i] == len(expected)
        assert gaussian.cdfs[i, : len(expected)].tolist() == expected


def test_rans_of_nothing(gaussian):
    empty = torch.zeros(0, dtype=torch.int32)
    data = rans_encode(empty, empty, gaussian)
    assert rans_decode(data, empty, gaussian).numel() == 0


def test_rans_rate_is_the_likelihood():
    torch.manual_seed(0)
    model = EntropyBottleneck(4)
    z = torch.randn(1, 4, 32, 32) * 3
    symbols = model.quantize(z, "symbols", model._extend_ndims(model._get_medians(), 2))
    indexes = model._build_indexes(z.shape)
    data = rans_encode(symbols, indexes, factorized_tables(model))
    bits = -model.eval()(z)[1].log2().sum().item()
    assert bits / 8 == pytest.approx(len(data), rel=0.02, abs=8)


@given(st.binary(max_size=64))
def test_foreign_bytes_decode_to_something_or_are_refused(data):
    tables = conditional_tables(GaussianConditional(None), torch.tensor([256.0]))
    indexes = torch.full((200,), 0)
    assert rans_decode(data, indexes, tables).shape == (200,)


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.tuples(
                st.sampled_from(["ff", "0f000000", "ffffff7f", "f0", "00"]), st.integers(0, 60)
            ).map(lambda run: bytes.fromhex(run[0]) * run[1]),
        ),
        max_size=4,
    ).map(b"".join),
    st.integers(1, 60),
    # The last entry is of what a table does not hold.
    st.sampled_from([(1,), (65535,), (30000,), (1, 2, 3), (16384, 32768, 49152)]),
)
def test_the_decoder_reads_no_farther_than_the_guard(data, count, ends):
    cdf = [0, *ends, 1 << 16]
    data = data[: 8 * count + 64]
    guarded = guard_rans(data, count)

    def read(after: bytes) -> list[int]:
        decoder = RansDecoder()
        decoder.set_stream(guarded + after * 64 * (len(data) + count + 64))
        return decoder.decode_stream([0] * count, [cdf], [len(cdf)], [0])

    assert read(b"\0") == read(b"\xff") == read(b"\x7f")


def test_a_stream_of_ones_is_read_within_its_guard():
    # Every half byte asks for 15 digits more, and each digit is half a byte.
    data = b"\xff" * 4096
    guarded = guard_rans(data, 512)
    results = []
    for after in (b"\0", b"\xff"):
        decoder = RansDecoder()
        decoder.set_stream(guarded + after * 64 * len(data))
        results.append(decoder.decode_stream([0] * 4, [[0, 1, 1 << 16]], [3], [0]))
    assert results[0] == results[1]


def test_a_stream_too_long_for_its_symbols_is_refused(gaussian):
    with pytest.raises(BitstreamError, match="3 symbols take 88 bytes at most, got 89"):
        guard_rans(bytes(89), 3)
    # What costs most: all digits that an integer can have.
    symbols = torch.full((500,), -MAX_SYMBOL)
    indexes = torch.zeros(500, dtype=torch.int64)
    data = rans_encode(symbols, indexes, gaussian)
    assert torch.equal(rans_decode(data, indexes, gaussian), symbols.int())


@pytest.mark.parametrize("value", [MAX_SYMBOL + 1, -MAX_SYMBOL - 1, -(2**31)])
def test_symbols_that_the_encoder_would_never_finish_are_refused(gaussian, value):
    symbols = torch.tensor([0, value])
    with pytest.raises(ValueError, match=f"{value}.* beyond the limit of 67108864"):
        rans_encode(symbols, torch.zeros(2, dtype=torch.int64), gaussian)


def test_tables_are_built_beside_the_model():
    torch.manual_seed(0)
    prior, conditional = EntropyBottleneck(4), GaussianConditional(None)
    before = {**prior.state_dict(), **conditional.state_dict()}
    tables = factorized_tables(prior)
    prior.update(force=True)  # CompressAI's, in float32
    assert torch.equal(tables.offsets, prior.offset)
    assert torch.equal(tables.lengths, prior.cdf_length)
    assert (tables.cdfs - prior.quantized_cdf).abs().max() <= 2
    prior = EntropyBottleneck(4)
    assert factorized_tables(prior).cdfs.any()
    conditional_tables(conditional, torch.tensor([1.0, 2.0]))
    after = {**prior.state_dict(), **conditional.state_dict()}
    assert {k: v.shape for k, v in after.items()} == {k: v.shape for k, v in before.items()}


def test_other_scales_make_another_code():
    symbols, indexes = torch.arange(-20, 20), torch.full((40,), 3)
    narrow, wide = (
        conditional_tables(GaussianConditional(None), torch.tensor(scales))
        for scales in ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0])
    )
    data = rans_encode(symbols, indexes, wide)
    assert data != rans_encode(symbols, indexes, narrow)
    assert torch.equal(rans_decode(data, indexes, wide), symbols.int())
