"""What a network over a base codec is given: its latents, and its pictures without coding."""

import pytest
import torch

from diffcodec.base.classical import PillowCodec
from diffcodec.base.compressai import CompressAICodec
from tests.base.test_reconstruct import BUILDERS, LAMBDAS, random

CODECS = {
    **BUILDERS,
    "context": lambda: random(CompressAICodec("mbt2018", size=[16, 24])),
    "jpeg": lambda: PillowCodec("JPEG", quality=[10, 60]),
}


@pytest.mark.parametrize("name", CODECS)
@torch.no_grad()
def test_it_is_what_is_decoded(name, photo):
    torch.manual_seed(0)
    codec = CODECS[name]().eval()
    x = torch.cat([photo[..., 100:150, 100:180], photo[..., 300:350, 60:140]])
    codec.fingerprint()  # builds the entropy tables
    for point in {codec.points[0], codec.points[-1]}:
        simulated = codec.simulate(x, point)
        payloads = codec.encode(x, point)
        decoded = codec.decode(payloads, 50, 80, [0, 0], point)
        torch.testing.assert_close(simulated.x_hat, decoded.x_hat, rtol=0, atol=1e-4)
        assert torch.equal(
            decoded.x_hat, codec.decode(payloads, 50, 80, [0, 0], point).x_hat.clamp(0, 1)
        )
        if name == "jpeg":
            assert decoded.y_hat is None
            assert codec.latent_channels == 0
        else:
            # Of the image padded to 64x128.
            assert decoded.y_hat.shape == (2, codec.latent_channels, 4, 8)
            assert decoded.y_hat.any()
            torch.testing.assert_close(simulated.y_hat, decoded.y_hat, rtol=1e-4, atol=1e-3)


def test_a_variable_rate_stream_says_its_rate_wherever_it_is_decoded(photo):
    codec = BUILDERS["vbr"]().eval()
    x = photo[..., :64, :64]
    codec.fingerprint()
    low, high = codec.find_point("level=0"), codec.find_point("level=6")
    assert codec.simulate(x, high).lmbda.tolist() == pytest.approx([LAMBDAS[6]])
    payloads = codec.encode(x, high)
    assert codec.decode(payloads, 64, 64, [0], low).lmbda.tolist() == pytest.approx([LAMBDAS[6]])


def test_no_gradient_and_no_half_precision(photo):
    codec = BUILDERS["mean"]().eval()
    x = photo[..., :64, :64].clone().requires_grad_()
    expected = codec.simulate(x, codec.points[0])
    assert not expected.x_hat.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(codec.simulate(x, codec.points[0]).x_hat, expected.x_hat)
