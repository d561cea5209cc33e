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


@pytest.fixture(scope="module")
def codec() -> CDC:
    built = build_codec(compose_config(["codec=cdc"])).eval()
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
        # A symbol costs at most that of its table's rarest, 16 bits, and an escape code of a few
        # bits, where a likelihood may be 1e-9, 30 bits.
        least, most = (
            sum(float(-p.log2().clamp(min=-bits).sum()) for p in likelihoods) for bits in (16, 20)
        )
        assert 0.98 * least - 128 <= 8 * len(stream) <= 1.02 * most + 128


def test_it_is_recognisable_and_noise_trades_fidelity_for_texture(codec, photo):
    x = photo[..., :256, 128:384]
    (stream,) = codec.compress(x)
    assert 8 * len(stream) < 0.45 * 256 * 256
    scores, roughness = [], []
    for point in codec.points:
        x_hat = codec.decompress([stream], point)
        scores.append(psnr(to_uint8(x), to_uint8(x_hat)))
        roughness.append(float(np.mean([x_hat.diff(dim=d).abs().mean() for d in (2, 3)])))
    assert [point.decoding["gamma"] for point in codec.points] == [0, 1]
    assert scores[0] > 25
    assert scores[0] > scores[1]
    assert roughness[0] < roughness[1]
