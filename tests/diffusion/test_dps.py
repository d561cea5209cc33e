import pytest
import torch

from diffcodec.diffusion.guidance import dps
from diffcodec.diffusion.sampler import euler_sde, seeded_noise
from diffcodec.diffusion.schedule import karras_sigmas
from tests.gaussian import Gaussian

P0 = Gaussian()
SIGMAS = karras_sigmas(0.5, 10, sigma_min=0.01)


def test_without_a_step_it_is_the_sde():
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    options = {"distance": lambda x0: x0.norm(), "zeta": 0.0}
    out = dps(P0.denoise, x, SIGMAS, noise=seeded_noise(0), **options)
    torch.testing.assert_close(out, euler_sde(P0.denoise, x, SIGMAS, noise=seeded_noise(0)))


def test_one_step_goes_down_the_gradient_of_the_distance():
    x = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    target = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    sigmas = torch.tensor([0.5, 0.0], dtype=torch.float64)
    out = dps(
        *(P0.denoise, x, sigmas),
        distance=lambda x0: (x0 - target).norm(),
        zeta=0.6,
        noise=torch.zeros_like,
    )
    x0 = P0.denoise(x, sigmas[0])
    slope = P0.std**2 / (P0.std**2 + 0.25)
    expected = x0 - 0.6 * slope * (x0 - target) / (x0 - target).norm()
    torch.testing.assert_close(out, expected)


def test_it_ends_closer_to_the_constraint():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    target = torch.rand(1, 3, 2, 2, dtype=torch.float64)

    def distance(x0):
        return (torch.nn.functional.avg_pool2d(x0, 4) - target).norm()

    free = euler_sde(P0.denoise, x, SIGMAS, noise=seeded_noise(0))
    held = dps(P0.denoise, x, SIGMAS, noise=seeded_noise(0), distance=distance, zeta=0.6)
    assert distance(held) < 0.9 * distance(free)
    further = dps(P0.denoise, x, SIGMAS, noise=seeded_noise(0), distance=distance, zeta=2.0)
    assert distance(further) < 0.7 * distance(free)
    assert not held.requires_grad


def test_it_says_that_it_needs_gradients():
    with torch.no_grad(), pytest.raises(ValueError, match="enable_grad"):
        dps(P0.denoise, torch.zeros(1), SIGMAS, distance=torch.norm, zeta=1, noise=torch.zeros_like)
