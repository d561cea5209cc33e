"""What the shipped weights must do."""

from importlib.resources import files

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from torchvision.transforms.v2.functional import pil_to_tensor

from callbacks.image_metrics import psnr
from datamodules.files import read_rgb
from diffcodec.cdc import CDC
from diffcodec.codec import to_uint8
from experiments.build import build_codec
from experiments.cli import compose_config

FILE = files("diffcodec.cdc") / "weights" / "small.safetensors"


@pytest.fixture(scope="module")
def codec() -> CDC:
    built = build_codec(compose_config(["codec=cdc", "codec.steps=5"])).eval()
    assert isinstance(built, CDC)
    return built


@pytest.fixture(scope="module")
def kodak(shared) -> list[torch.Tensor]:
    paths = sorted((shared / "data" / "kodak").glob("*.png"))
    return [pil_to_tensor(read_rgb(path))[None] / 255 for path in paths]


def test_the_file_is_small_and_half_precision():
    state = load_file(str(FILE))
    assert sum(t.numel() * t.element_size() for t in state.values()) < 4 * 2**20
    assert {str(t.dtype) for t in state.values() if t.is_floating_point()} == {"torch.float16"}


@torch.no_grad()
def test_a_file_is_as_long_as_its_likelihoods_say(codec, kodak):
    for x in kodak:
        (stream,) = codec.compress(x)
        # As the network's own entropy models have it, in the network's own arithmetic.
        compressor = codec.compressor
        y = compressor.g_a(F.pad(x * 2 - 1, (0, -x.shape[3] % 64, 0, -x.shape[2] % 64)))
        latents = compressor.eval()._quantize(y, compressor.h_a(y))
        _, y_likelihoods = compressor.gaussian_conditional(y, latents.scales, latents.means)
        bits = -(y_likelihoods.log2().sum() + latents.likelihoods["z"].log2().sum())
        assert len(stream) == pytest.approx(float(bits) / 8, rel=0.02, abs=16)


def test_it_is_recognisable_and_noise_trades_fidelity_for_texture(codec, photo):
    x = photo[..., :256, 128:384]
    (stream,) = codec.compress(x)
    assert 8 * len(stream) < 0.6 * 256 * 256
    scores, roughness = [], []
    for point in codec.points:
        codec.select(point)
        x_hat = codec.decompress([stream])
        scores.append(psnr(to_uint8(x), to_uint8(x_hat)))
        roughness.append(float(np.mean([x_hat.diff(dim=d).abs().mean() for d in (2, 3)])))
    assert codec.points == ("steps=5,gamma=0", "steps=5,gamma=0.8")
    assert scores[0] > 22
    assert scores[0] > scores[1]
    assert roughness[0] < roughness[1]
