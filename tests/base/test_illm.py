import logging

import pytest
import torch

from diffcodec.base.illm import MsIllm

# A clone of the hub repository in miniature: the entry points and the methods that are used, around
# a real CompressAI hyperprior.
HUBCONF = """
from types import SimpleNamespace
import torch
from compressai.models import MeanScaleHyperprior
from torch.nn import functional as F

class Network(torch.nn.Module):
    def __init__(self, quality):
        super().__init__()
        torch.manual_seed(quality)
        self.inner = MeanScaleHyperprior(8, 12)
        self.encoder, self.decoder = self.inner.g_a, self.inner.g_s
        self.hyper_analysis = self.inner.h_a
        self.hyper_bottleneck = self.inner.entropy_bottleneck

    def hyper_synthesis_mean(self, z_hat):
        return self.inner.h_s(z_hat).chunk(2, 1)[1]

    def update_tensor_devices(self, operation):
        assert operation == "compress"
        self.inner.update(force=True)

    def compress(self, image, force_cpu=True):
        height, width = image.shape[-2:]
        pad = (0, -width % 64, 0, -height % 64)
        out = self.inner.compress(F.pad(image, pad))
        y, z = out["strings"]
        return SimpleNamespace(latent_strings=y, hyper_latent_strings=z)

    def decompress(self, data, force_cpu=True):
        shape = [side // 64 for side in data.padded_size]
        strings = [data.latent_strings, data.hyper_latent_strings]
        x_hat = self.inner.decompress(strings, shape)["x_hat"]
        return x_hat[..., : data.image_size[0], : data.image_size[1]]

def msillm_quality_2(pretrained): return Network(2)
def noganms_quality_2(pretrained): return Network(20)
def msillm_quality_4(pretrained): return Network(4)
def msillm_quality_vlo2(pretrained): return Network(102)
"""


@pytest.fixture
def repo(tmp_path) -> str:
    (tmp_path / "hubconf.py").write_text(HUBCONF)
    return str(tmp_path)


def test_round_trip_of_every_quality(repo, photo, caplog):
    with caplog.at_level(logging.WARNING):
        codec = MsIllm([4, 2], repo=repo)
    assert "non-commercial" in caplog.text
    assert tuple(p.name for p in codec.points) == ("quality=2", "quality=4")
    x = torch.cat([photo[..., :70, :50], photo[..., 70:140, :50]])
    pictures = []
    for point in codec.points:
        streams = codec.compress(x, point)
        pictures.append(codec.decompress(streams, point))
        assert pictures[-1].shape == x.shape
    assert not torch.equal(*pictures)
    with pytest.raises(ValueError, match="other weights"):
        MsIllm([2], gan=False, repo=repo).decompress(streams)


def test_the_very_low_rates_come_first(repo, photo):
    codec = MsIllm([2, "vlo2"], repo=repo)
    assert [point.rate["quality"] for point in codec.points] == ["vlo2", 2]
    x = photo[..., :64, :64]
    assert codec.decompress(codec.compress(x)).shape == x.shape
    with pytest.raises(ValueError, match="qualities vlo1 and vlo2 need gan=true"):
        MsIllm(["vlo2"], gan=False, repo=repo)


def test_the_error_says_that_access_is_denied_and_what_else_there_is(repo):
    with pytest.raises(ValueError, match=r"issue 245.*codec\.weights=DIR/msillm_quality_\{quality"):
        MsIllm([3], repo=repo)


def test_what_cannot_be_had_is_an_error(repo, tmp_path):
    with pytest.raises(ValueError, match=r"unknown quality \[.*\], choose from .*vlo1"):
        MsIllm([7], repo=repo)
    with pytest.raises(ValueError, match="could not load msillm_quality_3 from torch hub"):
        MsIllm([3], repo=repo)


def test_gradients_flow_through_what_is_decoded(repo, photo):
    codec = MsIllm([2], repo=repo).eval()
    x = photo[..., 100:150, 100:180].clone().requires_grad_()
    reconstructed = codec.reconstruct(x, codec.points[0])
    decoded = codec.decompress(codec.compress(x.detach()))
    torch.testing.assert_close(reconstructed.clamp(0, 1), decoded, rtol=0, atol=1e-5)
    reconstructed.sum().backward()
    assert x.grad.abs().sum() > 0
