import random

import pytest
import torch
from compressai.ans import BufferedRansEncoder
from compressai.models import MeanScaleHyperprior
from compressai.models.base import get_scale_table
from torch import Tensor

from diffcodec.coding import latent_coder
from diffcodec.coding.bitstream import BitstreamError
from diffcodec.coding.hyper_synthesis import exact_synthesis
from diffcodec.coding.latent_coder import (
    Code,
    LatentCoder,
    scales_alone,
    scales_then_means,
    whole,
)
from diffcodec.coding.rans import MAX_SYMBOL

CHANNELS, HEIGHT, WIDTH = 12, 2, 3  # of y, and of z


@pytest.fixture(scope="module")
def model() -> MeanScaleHyperprior:
    torch.manual_seed(0)
    built = MeanScaleHyperprior(8, CHANNELS).eval()
    with torch.no_grad():
        built.h_s[-1].weight.mul_(8)
        built.h_s[-1].bias[:CHANNELS].add_(2)  # scales of all sizes
    return built


@pytest.fixture(scope="module")
def coder(model) -> LatentCoder:
    return build(model)


def build(model: MeanScaleHyperprior) -> LatentCoder:
    return LatentCoder(
        model.entropy_bottleneck,
        model.gaussian_conditional,
        exact_synthesis(model.h_s),
        channels=CHANNELS,
        scales=get_scale_table(),
        borders=get_scale_table()[:-1].double(),
    )


def draw(model: MeanScaleHyperprior, height: int, width: int) -> tuple[Tensor, Tensor]:
    """y and z, distributed as the model says, or nearly so."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, 8, height, width, generator=generator) * 3
    with torch.no_grad():
        scales, means = model.h_s(z.round()).chunk(2, dim=1)
    noise = torch.randn(scales.shape, generator=generator)
    return means + noise * scales.clamp(min=0.11), z


@pytest.fixture(scope="module")
def latents(model) -> tuple[Tensor, Tensor]:
    return draw(model, HEIGHT, WIDTH)


def by_channels(parameters: Tensor, code: Code) -> Tensor:
    """Each channel's scale depends on the channel before it."""
    scales, means = parameters.chunk(2, dim=1)
    y_hat: list[Tensor] = []
    for i in range(CHANNELS):
        own = slice(i, i + 1)
        scale = scales[:, own] if not y_hat else scales[:, own].abs() + y_hat[-1].abs()
        symbols = code(lambda y, own=own: y[:, own], scale, means[:, own])
        y_hat.append(symbols + means[:, own])
    return torch.cat(y_hat, dim=1)


@pytest.mark.parametrize("context_model", [scales_then_means, by_channels])
def test_y_hat_is_y_rounded_around_its_means(model, coder, latents, context_model):
    y, z = latents
    y_hat = coder.decode(coder.encode(y, z, context_model), HEIGHT, WIDTH, context_model)
    with torch.no_grad():
        z_hat = model.entropy_bottleneck(z)[0]
        _, means = model.h_s(z_hat).chunk(2, dim=1)
    torch.testing.assert_close(y_hat.float(), (y - means).round() + means, rtol=0, atol=2e-3)


def test_without_means_y_hat_is_integers(model, latents):
    y, z = latents
    scales_of = exact_synthesis(model.h_s)
    coder = build(model)
    coder._hyper_synthesis = lambda z_hat: scales_of(z_hat)[:, :CHANNELS]
    y_hat = coder.decode(coder.encode(y, z, scales_alone), HEIGHT, WIDTH, scales_alone)
    assert torch.equal(y_hat, y.round())


@torch.no_grad()
def test_the_rate_is_the_likelihood(model, coder):
    y, z = draw(model, 12, 20)
    z_section, y_section = coder.encode(y, z, scales_then_means)
    z_hat, z_likelihoods = model.entropy_bottleneck(z)
    scales, means = model.h_s(z_hat).chunk(2, dim=1)
    y_likelihoods = model.gaussian_conditional(y, scales, means)[1]
    for section, likelihoods in ((z_section, z_likelihoods), (y_section, y_likelihoods)):
        bits = -likelihoods.log2().sum().item()
        assert bits / 8 <= len(section) <= 1.01 * bits / 8 + 16


def test_nothing_of_the_model_changes(model, latents):
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    state = {name: (id(t), t._version, t.shape) for name, t in model.state_dict().items()}
    coder = build(model)
    coder.decode(coder.encode(*latents, scales_then_means), HEIGHT, WIDTH, scales_then_means)
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == before
    assert {n: t.shape for n, t in model.state_dict().items()} == {
        name: shape for name, (_, _, shape) in state.items()
    }


@pytest.mark.parametrize("context_model", [scales_then_means, by_channels])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("harm", ["truncated", "empty", "longer", "flipped", "random", "far"])
def test_malformed_sections_are_refused(coder, latents, context_model, which, harm):
    sections = coder.encode(*latents, context_model)
    data = sections[which]
    position = len(data) // 2
    sections[which] = {
        "truncated": data[:-4],
        "empty": b"",
        "longer": data + b"\1\2\3\4",
        "flipped": data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :],
        "random": random.Random(0).randbytes(len(data)),
        "far": far(which, coder),
    }[harm]
    with pytest.raises(BitstreamError, match="section"):
        coder.decode(sections, HEIGHT, WIDTH, context_model)


def far(which: int, coder: LatentCoder) -> bytes:
    """A section of symbols that no encoder writes."""
    tables = (coder._z, coder._y)[which].lists
    count = (8 * HEIGHT * WIDTH, 16 * CHANNELS * HEIGHT * WIDTH)[which]
    encoder = BufferedRansEncoder()
    encoder.encode_with_indexes([MAX_SYMBOL + 1] * count, [0] * count, *tables)
    return encoder.flush()


def test_another_size_or_number_of_sections_is_refused(coder, latents):
    sections = coder.encode(*latents, scales_then_means)
    with pytest.raises(BitstreamError, match="section z"):
        coder.decode(sections, HEIGHT, WIDTH + 1, scales_then_means)
    with pytest.raises(BitstreamError, match="got 1"):
        coder.decode(sections[:1], HEIGHT, WIDTH, scales_then_means)


@pytest.mark.parametrize("value", [MAX_SYMBOL * 2.0, -1e30, torch.inf, torch.nan])
@pytest.mark.parametrize("which", [0, 1])
def test_latents_that_the_encoder_would_never_finish_are_refused(coder, latents, which, value):
    latents = [t.clone() for t in latents]
    latents[which][0, 0, 0, 0] = value
    with pytest.raises(ValueError, match="the weights are not finite, or the model has diverged"):
        coder.encode(*latents, scales_then_means)


def test_a_large_image_is_synthesised_in_tiles_to_the_last_bit(coder, model, monkeypatch):
    y, z = draw(model, 20, 33)
    sections = coder.encode(y, z, scales_then_means)
    y_hat = coder.decode(sections, 20, 33, scales_then_means)
    monkeypatch.setattr(latent_coder, "WINDOW", 12)
    assert coder.encode(y, z, scales_then_means) == sections
    assert torch.equal(coder.decode(sections, 20, 33, scales_then_means), y_hat)


def test_tables_are_named_as_compressai_names_them(coder):
    names = ("_quantized_cdf", "_cdf_length", "_offset")
    assert set(coder.tables()) == {f"{latent}.{name}" for latent in "zy" for name in names}


def test_whole_is_all_of_y(latents):
    assert whole(latents[0]) is latents[0]
