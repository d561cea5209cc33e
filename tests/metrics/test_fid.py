import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

from diffcodec.metrics.fid import frechet_distance


@pytest.mark.parametrize("count", [40, 700])
def test_frechet_distance_of_gaussians(count):
    # Two sample sets with known moments: whitened noise, scaled and shifted.
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    noise -= noise.mean(0)
    white = noise @ torch.linalg.inv(torch.linalg.cholesky(noise.T.cov())).T
    a, b = torch.rand(2, 6, generator=generator, dtype=torch.float64) + 0.5
    shift = torch.arange(6.0, dtype=torch.float64)
    expected = shift.square().sum() + (a - b).square().sum()
    assert frechet_distance(white * a, white * b + shift) == pytest.approx(float(expected))


def test_frechet_distance_agrees_with_torchmetrics():
    class Passthrough(torch.nn.Identity):
        num_features = 8

    generator = torch.Generator().manual_seed(1)
    real = torch.randn(300, 8, generator=generator, dtype=torch.float64)
    fake = torch.randn(200, 8, generator=generator, dtype=torch.float64) * 1.3 + 0.2
    metric = FrechetInceptionDistance(feature=Passthrough())
    metric.update(real, real=True)
    metric.update(fake, real=False)
    assert frechet_distance(real, fake) == pytest.approx(float(metric.compute()), rel=1e-6)


def test_frechet_distance_of_equal_sets_is_zero_with_fewer_samples_than_features():
    features = torch.randn(9, 256, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)
