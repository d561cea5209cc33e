"""What the shipped weights must do."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2.functional import pil_to_tensor

from datamodules.files import read_rgb
from diffcodec.cdc import CDC
from diffcodec.codec import to_uint8
from diffcodec.metrics.psnr import psnr
from experiments.build import build_codec
from experiments.cli import compose_config

PAPER = ("codec=cdc",)


@pytest.fixture(scope="module")
def codec() -> CDC:
    built = build_codec(compose_config(["codec=cdc", "codec.steps=5"])).eval()
    assert isinstance(built, CDC)
    return built


@pytest.fixture(scope="module")
def kodak(shared) -> list[torch.Tensor]:
    paths = sorted((shared / "data" / "kodak").glob("*.png"))
    return [pil_to_tensor(read_rgb(path))[None] / 255 for path in paths]


@torch.no_grad()
def test_a_file_is_as_long_as_its_likelihoods_say(codec, kodak):
    for x in kodak:
        (stream,) = codec.compress(x)
        # In the network's own arithmetic. The sides are multiples of 64: no padding.
        likelihoods = codec.compressor(x * 2 - 1).likelihoods.values()
        # No symbol costs more than its table's rarest, of 2^-16, and an escape code; a likelihood
        # may be 1e-9, 30 bits.
        bits = sum(float(-p.log2().clamp(min=-20).sum()) for p in likelihoods)
        assert len(stream) == pytest.approx(bits / 8, rel=0.02, abs=16)


def test_it_is_recognisable_and_noise_trades_fidelity_for_texture(codec, photo):
    x = photo[..., :256, 128:384]
    (stream,) = codec.compress(x)
    assert 8 * len(stream) < 0.6 * 256 * 256
    scores, roughness = [], []
    for point in codec.points:
        x_hat = codec.decompress([stream], point)
        scores.append(psnr(to_uint8(x), to_uint8(x_hat)))
        roughness.append(float(np.mean([x_hat.diff(dim=d).abs().mean() for d in (2, 3)])))
    assert [point.decoding["gamma"] for point in codec.points] == [0, 0.8]
    assert scores[0] > 22
    assert scores[0] > scores[1]
    assert roughness[0] < roughness[1]


def test_the_second_order_sampler_converges_to_the_picture_that_ddim_ends_in(photo):
    x = photo[..., 100:164, 180:244]

    def decoded(sampler: str, steps: int) -> torch.Tensor:
        options = ("codec.gamma=0.8", f"codec.sampler={sampler}", f"codec.steps={steps}")
        built = build_codec(compose_config([*PAPER, *options])).eval()
        return built.decompress(built.compress(x), seed=0)

    end = decoded("ddim", 200)
    far, near = ((decoded("dpmpp_2m", n) - end).square().mean().sqrt() for n in (5, 100))
    assert near < 0.4 * far
    assert near < (decoded("ddim", 50) - end).square().mean().sqrt()
