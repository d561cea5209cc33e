"""What every hyperprior codec does: CompressAI's code, and the same for images of any size."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diffcodec.base.compressai import CompressAICodec
from diffcodec.base.elic import Elic
from diffcodec.base.learned import LearnedCodec
from diffcodec.base.vbr import VariableRateCodec
from diffcodec.coding import latent_coder


def zoo(architecture: str, *size: int) -> Callable[..., LearnedCodec]:
    return lambda **options: CompressAICodec(architecture, size=[*size], **options)


# With a window in which there is room beside what the transforms see.
BUILDERS: dict[str, tuple[Callable[..., LearnedCodec], int]] = {
    "bmshj2018-hyperprior": (zoo("bmshj2018-hyperprior", 8, 12), 128),
    "mbt2018-mean": (zoo("mbt2018-mean", 8, 12), 128),
    "mbt2018": (zoo("mbt2018", 8, 12), 128),
    "cheng2020-anchor": (zoo("cheng2020-anchor", 8), 320),
    "cheng2020-attn": (zoo("cheng2020-attn", 8), 512),
    "elic": (lambda **options: Elic(N=8, M=20, groups=[4] * 5, **options), 384),
    "vbr": (lambda **options: VariableRateCodec(8, 12, level=4, **options), 128),
}


def build(name: str, **options) -> LearnedCodec:
    torch.manual_seed(0)
    codec = BUILDERS[name][0](**options).eval()
    with torch.no_grad():
        for parameter in codec.parameters():
            if parameter.ndim == 4:
                parameter.mul_(1.5)
    return codec


def decode(codec: LearnedCodec, stream: bytes) -> tuple[Tensor, Tensor]:
    """y_hat and x_hat."""
    (contents,) = codec.unpack([stream])
    with torch.no_grad():
        payloads = [list(contents.sections)]
        decoded = codec.decode(payloads, contents.height, contents.width, [0], codec.points[0])
    assert decoded.y_hat is not None
    return decoded.y_hat, decoded.x_hat


SLOW = {"mbt2018", "cheng2020-anchor", "cheng2020-attn", "elic"}  # symbol after symbol, or large


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in BUILDERS]
)
def test_tiles_give_the_stream_and_the_latents_of_the_whole(name, photo, monkeypatch):
    window = BUILDERS[name][1]
    x = torch.cat([photo, photo.flip(-1)], dim=-1)[..., :65, : window + 90]
    monkeypatch.setattr(latent_coder, "WINDOW", 16)
    whole, tiled = build(name), build(name, window=window)
    widths: list[int] = []
    tiled.model.g_a.register_forward_pre_hook(lambda _, inputs: widths.append(inputs[0].shape[-1]))
    (stream,) = whole.compress(x)
    assert tiled.compress(x) == [stream]
    assert len(widths) > 1
    assert max(widths) <= window
    y_hat, x_hat = decode(tiled, stream)
    expected = decode(whole, stream)
    assert y_hat.unique().numel() >= 3
    torch.testing.assert_close(y_hat, expected[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(x_hat, expected[1], rtol=0, atol=1e-5)
    torch.testing.assert_close(tiled.decompress([stream]), x_hat)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if "attn" in n else []) for n in BUILDERS]
)
@torch.no_grad()
def test_it_codes_as_compressai_does(name, photo):
    codec = build(name)
    x = photo[..., 100:164, 200:328]
    (stream,) = codec.compress(x)
    (contents,) = codec.unpack([stream])
    options = {"s": 4} if name == "vbr" else {}
    theirs = copy.deepcopy(codec.model)
    theirs.update(force=True)
    coded = theirs.compress(x, **options)
    x_hat = theirs.decompress(coded["strings"], coded["shape"], **options)["x_hat"]
    torch.testing.assert_close(codec.decompress([stream]), x_hat, rtol=0, atol=1e-4)
    *_, z, y = map(len, contents.sections)
    *y_strings, (z_string,) = coded["strings"]
    assert abs(z - len(z_string)) <= 4
    # One section where ELIC's context model has two for each group: a state of the coder each.
    assert -8 * len(y_strings) <= y - sum(len(string) for (string,) in y_strings) <= 4


@torch.no_grad()
def test_nothing_of_compressai_s_is_patched(photo):
    for name in ("mbt2018-mean", "elic", "vbr"):
        codec = build(name, window=BUILDERS[name][1])
        before = {n: dict(vars(module)) for n, module in codec.model.named_modules()}
        tensors = {n: (id(t), t.shape) for n, t in codec.model.named_buffers()}
        x = photo[..., :64, :448]  # larger than a window
        codec.decompress(codec.compress(x))
        codec.simulate(x, codec.points[0])
        codec.reconstruct(x, codec.points[0])
        assert {n: dict(vars(module)) for n, module in codec.model.named_modules()} == before
        assert {n: (id(t), t.shape) for n, t in codec.model.named_buffers()} == tensors


def test_a_window_is_whole_blocks_of_z():
    with pytest.raises(ValueError, match="window must be a multiple of 64, got 100"):
        build("vbr", window=100)


@torch.no_grad()
def transform(codec: LearnedCodec, width: int) -> None:
    """Run g_a and g_s on an image of this width."""
    codec._analyse(torch.zeros(1, 3, 64, width))
    codec._synthesise(torch.zeros(1, codec.latent_channels, 4, width // 16), 64, width)


@pytest.mark.parametrize("variant", ["official", *BUILDERS])
def test_the_smallest_window_that_is_accepted_has_room_for_the_margins(variant):
    name, options = ("elic", {"variant": variant}) if variant == "official" else (variant, {})
    smallest = build(name, **options).min_window
    transform(build(name, window=smallest, **options), smallest + 64)
    below = smallest - 64
    with pytest.raises(ValueError, match=f"window must be at least {smallest}, .* got {below}"):
        build(name, window=below, **options)
    codec = build(name, window=smallest, **options)
    codec.window = below
    with pytest.raises(ValueError, match="use a larger window"):
        transform(codec, smallest)


def test_a_window_too_small_for_what_a_network_sees_is_refused(photo):
    codec = build("cheng2020-attn")
    codec.window = 128  # as for a codec that does not set `min_window`
    with pytest.raises(ValueError, match="use a larger window"):
        codec.compress(photo[..., :64, :200])


@pytest.mark.parametrize("side", [64, 576])
@pytest.mark.parametrize("name", ["bmshj2018-hyperprior", "mbt2018", "elic", "vbr"])
def test_a_model_that_has_diverged_is_refused_and_does_not_hang(name, side):
    if side > 64 and name in ("mbt2018", "elic"):
        pytest.skip("their context models take long for an image above the window")
    codec = build(name, window=BUILDERS[name][1])
    with torch.no_grad():
        for parameter in codec.model.g_a.parameters():
            parameter.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"the weights are not finite, or the model has diverged"):
        codec.compress(torch.rand(1, 3, side, side))
