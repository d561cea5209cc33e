import pytest
import torch
from pytorch_msssim import ms_ssim as library
from torch import Tensor

from diffcodec.metrics.ms_ssim import ms_ssim


def test_ms_ssim(pair):
    x, x_hat = pair
    assert ms_ssim(x, x) == pytest.approx(1)
    assert 0.9 < ms_ssim(x, x_hat) < 1
    assert ms_ssim(x[:, :160], x_hat[:, :160]) is None
    assert ms_ssim(x[:, :161], x_hat[:, :161]) is not None


def drawn(height: int, width: int) -> tuple[Tensor, Tensor]:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    channels = torch.arange(3)[:, None, None]
    x = 180 + 30 * torch.sin((rows + 2 * channels) / 9) + 30 * torch.cos(columns / 13 + channels)
    x_hat = x + 20 * torch.sin((rows + columns) / 7.0)
    return x.round().clamp(0, 255).to(torch.uint8), x_hat.round().clamp(0, 255).to(torch.uint8)


# What NeuralCompression's function gives in float64.
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((176, 192), 0.8065033380298431),
        ((171, 203), 0.8063702311325799),
        ((255, 161), 0.8063926783006158),
    ],
)
def test_odd_sides_are_continued_as_in_neural_compression(size, expected):
    x, x_hat = drawn(*size)
    assert ms_ssim(x, x_hat) == pytest.approx(expected, abs=1e-5)
    other = float(library(x[None].float(), x_hat[None].float(), data_range=255.0))
    if all(side % 16 == 0 for side in size):
        assert ms_ssim(x, x_hat) == pytest.approx(other, abs=1e-6)
    else:
        assert other - expected > 1e-4
