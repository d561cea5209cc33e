import math
import random
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from diffcodec.cdc.coder import (
    MAX_SCALE,
    NUM_SCALES,
    build_coder,
    means_then_scales,
    scale_table,
)
from diffcodec.cdc.compressor import MIN_SCALE
from diffcodec.coding.bitstream import BitstreamError
from diffcodec.coding.latent_coder import LatentCoder
from diffcodec.coding.rans import rans_encode
from tests.cdc.tiny import build, encode_latents


@pytest.fixture(scope="module")
def coder() -> LatentCoder:
    return build_coder(build().compressor)


@pytest.fixture(scope="module")
def latents() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(1, 16, 8, 12, generator=generator) * 2
    return y, torch.randn(1, 16, 2, 3, generator=generator) * 3


def test_y_hat_of_the_decoder_is_that_of_the_encoder(coder, latents):
    y, z = latents
    sections, y_hat = encode_latents(coder, y, z)
    assert torch.equal(coder.decode(sections, 2, 3, means_then_scales), y_hat)
    assert (y_hat - y).abs().max() <= 0.5 + 1e-6


def test_thread_counts_and_memory_formats_do_not_matter(coder, latents):
    y, z = latents
    sections, y_hat = encode_latents(coder, y, z)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        compressor = build().compressor.to(memory_format=torch.channels_last)
        other = build_coder(compressor)
        formatted = [t.to(memory_format=torch.channels_last) for t in latents]
        assert other.encode(*formatted, means_then_scales) == sections
        assert torch.equal(other.decode(sections, 2, 3, means_then_scales), y_hat)
    finally:
        torch.set_num_threads(threads)
    tables = coder.tables()
    assert all(torch.equal(table, tables[name]) for name, table in other.tables().items())


def test_rare_latents_survive(coder, latents):
    y, z = (t.clone() for t in latents)
    y[0, 0, 0, :4] = torch.tensor([5000.0, -5000.0, 1e6, -6e7])
    z[0, 0, 0, :2] = torch.tensor([700.0, -6e7])
    sections, y_hat = encode_latents(coder, y, z)
    assert torch.equal(coder.decode(sections, 2, 3, means_then_scales), y_hat)
    assert y_hat.isfinite().all()
    assert y_hat[0, 0, 0, 0].item() == pytest.approx(5000, abs=0.51)


@pytest.mark.parametrize("value", [1e30, -1e30, math.inf, math.nan])
@pytest.mark.parametrize("which", [0, 1])
def test_absurd_latents_are_refused(coder, latents, which, value):
    latents = [t.clone() for t in latents]
    latents[which][0, 0, 0, 0] = value
    with pytest.raises(ValueError, match=r"the weights are not finite, or the model has diverged"):
        coder.encode(*latents, means_then_scales)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("harm", ["truncated", "empty", "longer", "flipped", "random"])
def test_malformed_sections_are_refused(coder, latents, which, harm):
    sections, _ = encode_latents(coder, *latents)
    rng = random.Random(0)
    data = sections[which]
    position = len(data) // 2
    sections[which] = {
        "truncated": data[:-4],
        "empty": b"",
        "longer": data + b"\1\2\3\4",
        "flipped": data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :],
        "random": rng.randbytes(len(data)),
    }[harm]
    with pytest.raises(BitstreamError, match="section"):
        coder.decode(sections, 2, 3, means_then_scales)


def test_another_size_or_number_of_sections_is_refused(coder, latents):
    sections, _ = encode_latents(coder, *latents)
    with pytest.raises(BitstreamError, match="section z"):
        coder.decode(sections, 2, 4, means_then_scales)
    with pytest.raises(BitstreamError, match="got 1"):
        coder.decode(sections[:1], 2, 3, means_then_scales)


def test_scale_table_spans_the_range_and_is_exact_in_binary():
    scales = scale_table()
    assert len(scales) == NUM_SCALES
    assert scales[0] == pytest.approx(MIN_SCALE, abs=1e-5)
    assert scales[-1] == MAX_SCALE
    assert all(a < b for a, b in pairwise(scales))
    assert all((scale * 2**16).is_integer() for scale in scales)


@pytest.mark.parametrize("scale", [0.15, 0.3, 0.77, 2.5, 31.0])
def test_the_code_is_as_short_as_the_entropy(coder, scale):
    generator = torch.Generator().manual_seed(0)
    symbols = (torch.randn(50000, generator=generator) * scale).round()
    indexes = torch.bucketize(torch.full((50000,), scale, dtype=torch.float64), coder._borders)
    size = len(rans_encode(symbols, indexes.int(), coder._y))
    tail = [
        0.5 * math.erfc((k - 0.5) / scale * math.sqrt(0.5)) for k in range(int(symbols.max()) + 50)
    ]
    pmf = torch.tensor([a - b for a, b in pairwise(tail)])
    bits = -pmf[symbols.abs().long()].log2().sum().item()
    assert size <= 1.01 * bits / 8 + 16


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_writes_what_a_cpu_reads(coder, latents):
    other = build_coder(build().compressor.cuda())
    sections, y_hat = encode_latents(other, *(t.cuda() for t in latents))
    assert torch.equal(coder.decode(sections, 2, 3, means_then_scales), y_hat)


def test_a_large_image_is_synthesised_in_tiles_to_the_last_bit(monkeypatch):
    latent_coder = build_coder(build().compressor)
    z = torch.randn(1, len(latent_coder._medians), 20, 33).mul(3).round().double()
    whole = latent_coder._parameters(z)
    monkeypatch.setattr("diffcodec.coding.latent_coder.WINDOW", 12)
    for one, other in zip(whole, latent_coder._parameters(z), strict=True):
        assert torch.equal(one, other)
