"""The differentiable encode-and-decode that the enhancer's constraint goes through."""

import pytest
import torch

from diffcodec.base.classical import PillowCodec
from diffcodec.base.compressai import CompressAICodec
from diffcodec.base.elic import Elic
from diffcodec.base.vbr import VariableRateCodec

LAMBDAS = [0.0009, 0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483, 0.0932]


def hyperprior():
    return VariableRateCodec(weights="mbt2018_mean_vbr")


def random(codec):
    with torch.no_grad():
        for parameter in codec.parameters():
            if parameter.ndim == 4:
                parameter.mul_(1.5)  # else all latents are zero
    return codec


BUILDERS = {
    "vbr": hyperprior,
    "mean": lambda: random(CompressAICodec("mbt2018-mean", size=[16, 24])),
    "scale": lambda: random(CompressAICodec("bmshj2018-hyperprior", size=[16, 24])),
    "elic": lambda: random(Elic(N=12, M=144, groups=[4, 4, 8, 16, 112])),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_it_is_what_is_decoded_and_gradients_flow(name, photo):
    torch.manual_seed(0)
    codec = BUILDERS[name]().eval()
    for point in {codec.points[0], codec.points[-1]}:
        x = photo[..., 100:150, 100:180].clone().requires_grad_()
        reconstructed = codec.reconstruct(x, point)
        decoded = codec.decompress(codec.compress(x.detach(), point), point)
        torch.testing.assert_close(reconstructed.clamp(0, 1), decoded, rtol=0, atol=1e-4)
        (gradient,) = torch.autograd.grad(reconstructed.sum(), x)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0
        again = codec.compress(x.detach(), point)  # and coding is left as it was
        assert torch.equal(codec.decompress(again, point), decoded)


def test_a_codec_without_gradients_says_so():
    codec = PillowCodec("JPEG", quality=[50])
    assert not codec.differentiable
    with pytest.raises(ValueError, match="PillowCodec is not differentiable"):
        codec.reconstruct(torch.rand(1, 3, 8, 8), codec.points[0])
