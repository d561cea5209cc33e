import pytest
import torch
from compressai.models import (
    Cheng2020Anchor,
    Elic2022Chandelier,
    Elic2022Official,
    JointAutoregressiveHierarchicalPriors,
)
from torch import Tensor

from diffcodec.base.context_models import ChannelGroups, RasterScan

HEIGHT, WIDTH = 8, 4
GROUPS = [4, 4, 2, 4, 6]


class Recorder:
    """Codes a given y, and remembers with which scales and means."""

    def __init__(self, y: Tensor) -> None:
        self.y = y
        self.scales, self.means = torch.full_like(y, torch.nan), torch.full_like(y, torch.nan)
        self._places = torch.arange(y.numel()).reshape(y.shape)

    def __call__(self, part, scales, means):
        places = part(self._places).flatten()
        assert self.scales.flatten()[places].isnan().all()  # coded once
        self.scales.view(-1)[places] = scales.flatten()
        self.means.view(-1)[places] = means.flatten()
        return (part(self.y) - means).round().int()


def parameters_of(h_s: torch.nn.Module, channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    z_hat = (torch.randn(1, channels, HEIGHT // 4, WIDTH // 4, generator=generator) * 5).round()
    return h_s(z_hat)


def draw(channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, channels, HEIGHT, WIDTH, generator=generator) * 4


@pytest.mark.parametrize(
    "build", [lambda: JointAutoregressiveHierarchicalPriors(8, 12), lambda: Cheng2020Anchor(12)]
)
@torch.no_grad()
def test_a_raster_scan_predicts_as_the_masked_convolution_does(build):
    torch.manual_seed(0)
    model = build().eval()
    parameters = parameters_of(model.h_s, model.N)
    code = Recorder(draw(12))
    y_hat = RasterScan(model)(parameters.double(), code)
    context = model.context_prediction(y_hat)
    out = model.entropy_parameters(torch.cat([parameters, context], dim=1))
    scales, means = out.chunk(2, dim=1)
    torch.testing.assert_close(code.scales, scales, rtol=0, atol=1e-5)
    torch.testing.assert_close(code.means, means, rtol=0, atol=1e-5)
    torch.testing.assert_close(y_hat, (code.y - code.means).round() + code.means)


@pytest.mark.parametrize("build", [Elic2022Chandelier, Elic2022Official])
@torch.no_grad()
def test_channel_groups_predict_as_compressai_does(build):
    torch.manual_seed(0)
    model = build(8, sum(GROUPS), GROUPS).eval()
    parameters = parameters_of(model.latent_codec["hyper"].h_s, 8)
    code = Recorder(draw(sum(GROUPS)))
    y_hat = ChannelGroups(model.latent_codec["y"])(parameters.double(), code)
    expected = model.latent_codec["y"](code.y, parameters)
    torch.testing.assert_close(y_hat, expected["y_hat"], rtol=0, atol=1e-5)
    gaussian = model.latent_codec["y"]["y0"]["y"].gaussian_conditional
    likelihoods = gaussian(code.y, code.scales, code.means)[1]
    torch.testing.assert_close(likelihoods, expected["likelihoods"]["y"], rtol=1e-3, atol=1e-6)
