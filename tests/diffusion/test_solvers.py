"""The solvers that start from a picture, in closed form: for Gaussian data all is known."""

import math

import pytest
import torch

from diffcodec.diffusion.denoiser import ConsistencyDenoiser, EDMDenoiser
from diffcodec.diffusion.sampler import (
    ancestral_step,
    consistency,
    dpmpp_2m,
    euler_sde,
    seeded_noise,
)
from diffcodec.diffusion.schedule import karras_sigmas
from tests.gaussian import Gaussian

P0 = Gaussian(mean=0.3, std=0.5)


def silent(x):
    return torch.zeros_like(x)


def pushed(solver, mean, std, sigma, num_steps, *, draws=False):
    """Mean and deviation of what a linear solver makes of N(mean, std^2 + sigma^2).

    Gaussian denoisers are affine, so is the solver: its slope, and the variance of what it adds
    itself, are read off from a few inputs.
    """
    sigmas = karras_sigmas(sigma, num_steps, sigma_min=1e-3)
    ends = solver(P0.denoise, torch.tensor([0.0, 1.0], dtype=torch.float64), sigmas, noise=silent)
    slope = float(ends[1] - ends[0])
    added = 0.0
    if draws:
        # One element for each draw, which it alone is given.
        kicks = iter(torch.eye(num_steps - 1, dtype=torch.float64))
        start = torch.zeros(num_steps - 1, dtype=torch.float64)
        out = solver(P0.denoise, start, sigmas, noise=lambda _: next(kicks))
        added = float((out - ends[0]).square().sum())
    return float(ends[0]) + slope * mean, math.sqrt(slope**2 * (std**2 + sigma**2) + added)


def ode(denoiser, x, sigmas, *, noise):
    return dpmpp_2m(denoiser, x, sigmas)


def divergence(mean, std, other_mean=P0.mean, other_std=P0.std):
    """KL(N(mean, std^2) || N(other_mean, other_std^2))."""
    ratio = (std / other_std) ** 2
    return (ratio - 1 - math.log(ratio) + ((mean - other_mean) / other_std) ** 2) / 2


def test_dpmpp_2m_converges_to_the_flow_of_a_gaussian_at_second_order():
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    exact = P0.flow(x, 2, 0.05)
    ramp = torch.linspace(math.log(2), math.log(0.05), 2, dtype=torch.float64)
    errors = []
    for n in (40, 80):
        sigmas = torch.linspace(*ramp.tolist(), n + 1, dtype=torch.float64).exp()
        errors.append((dpmpp_2m(P0.denoise, x, sigmas) - exact).abs().max().item())
    assert errors[1] < 1e-3
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)


def test_dpmpp_2m_agrees_with_diffusers():
    from diffusers import EDMDPMSolverMultistepScheduler

    theirs = EDMDPMSolverMultistepScheduler(
        sigma_min=0.01, sigma_max=2.0, solver_order=2, euler_at_final=True, lower_order_final=False
    )
    theirs.set_timesteps(7)
    assert theirs.sigmas[-1] == 0
    weight = torch.randn(16, 16) / 4

    def network(x, c_noise):
        return torch.tanh(x @ weight + c_noise.reshape(-1, 1))

    x = start = torch.randn(2, 16) * 2
    for t in theirs.timesteps:
        scaled = theirs.scale_model_input(x, t)
        x = theirs.step(network(scaled, t.expand(2)), t, x).prev_sample
    ours = dpmpp_2m(EDMDenoiser(network), start, theirs.sigmas.double())
    torch.testing.assert_close(ours, x, rtol=1e-4, atol=1e-4)


def test_the_sde_samples_the_posterior_of_a_gaussian():
    # From a given noisy x, x0 is N(D(x), s^2 sigma^2 / (s^2 + sigma^2)) in the limit.
    sigma = 0.8
    x = torch.full((20_000,), 1.1, dtype=torch.float64)
    sigmas = karras_sigmas(sigma, 200, sigma_min=1e-3)
    x0 = euler_sde(P0.denoise, x, sigmas, noise=seeded_noise(0))
    variance = P0.std**2 * sigma**2 / (P0.std**2 + sigma**2)
    expected = P0.denoise(x[0], torch.tensor(sigma)).item()
    assert x0.mean().item() == pytest.approx(expected, abs=0.01)
    assert x0.var().item() == pytest.approx(variance, rel=0.04)


def test_an_ancestral_step_keeps_the_level_that_it_is_told():
    x0 = torch.zeros(50_000, dtype=torch.float64)
    sigma, sigma_next = torch.tensor(0.9), torch.tensor(0.4)
    noise = seeded_noise(1)
    x = ancestral_step(x0 + sigma * noise(x0), x0, sigma, sigma_next, noise)
    assert x.std().item() == pytest.approx(0.4, rel=0.02)
    assert torch.equal(ancestral_step(x, x0, sigma, torch.tensor(0.0), noise), x0)


@pytest.mark.parametrize("base", [(0.3, 0.3), (0.0, 0.45), (0.6, 0.7)])
def test_the_divergence_contracts_and_more_noise_brings_more_of_it(base):
    # Theorem 3.1: KL(enhanced || p0) < KL(base || p0); the ODE keeps what the noise left of it,
    # the SDE is no worse, and both fall as the noise grows.
    before = divergence(*base)
    last = {"ode": before, "sde": before}
    for sigma in (0.2, 0.5, 1.0, 2.0):
        noisy = divergence(base[0], math.hypot(base[1], sigma), P0.mean, math.hypot(P0.std, sigma))
        by_ode = divergence(*pushed(ode, *base, sigma, 200))
        by_sde = divergence(*pushed(euler_sde, *base, sigma, 200, draws=True))
        assert by_ode == pytest.approx(noisy, rel=0.02)
        assert by_sde <= by_ode * 1.02
        assert by_ode < last["ode"]
        assert by_sde < last["sde"]
        last = {"ode": by_ode, "sde": by_sde}


def test_a_perfect_consistency_function_ends_where_the_ode_does():
    class Perfect:
        def __call__(self, x, sigma):
            return P0.flow(x, float(sigma), 0.0)

    x = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    sigmas = torch.tensor([0.7, 0.0], dtype=torch.float64)
    one = consistency(Perfect(), x, sigmas, noise=silent)
    torch.testing.assert_close(one, P0.flow(x, 0.7, 0.0))
    flowed = dpmpp_2m(P0.denoise, x, karras_sigmas(0.7, 100, sigma_min=1e-3))
    torch.testing.assert_close(one, flowed, rtol=1e-3, atol=1e-3)
    # Again from 0.3: noise on x0, and back.
    sigmas = torch.tensor([0.7, 0.3, 0.0], dtype=torch.float64)
    again = consistency(Perfect(), x, sigmas, noise=torch.ones_like, sigma_min=0.0)
    torch.testing.assert_close(again, P0.flow(one + 0.3, 0.3, 0.0))


def test_edm_preconditioning_of_a_gaussian():
    # The network that makes D the best denoiser sees unit variance and has unit variance to make.
    data = Gaussian(mean=0.0, std=0.5)

    def network(x, c_noise):
        sigma = (4 * c_noise.double()).exp().reshape(-1, 1)
        noisy = x * (sigma**2 + 0.25).sqrt()
        total = sigma**2 + 0.25
        return (data.denoise(noisy, sigma) - 0.25 / total * noisy) * total.sqrt() / (0.5 * sigma)

    x = torch.randn(3, 5, dtype=torch.float64)
    sigma = torch.tensor([0.05, 0.5, 5.0], dtype=torch.float64)
    expected = data.denoise(x, sigma[:, None])
    torch.testing.assert_close(EDMDenoiser(network)(x, sigma), expected, rtol=1e-5, atol=1e-6)
    seen = {}

    def spy(x, c_noise):
        seen.update(x=x, c_noise=c_noise)
        return x

    EDMDenoiser(spy)(torch.ones(2, 3), torch.tensor(0.5))
    torch.testing.assert_close(seen["x"], torch.full((2, 3), 2**0.5))
    torch.testing.assert_close(seen["c_noise"], torch.full((2,), math.log(0.5) / 4))


def test_a_consistency_function_leaves_its_lowest_level_alone_and_agrees_with_diffusers():
    from diffusers import CMStochasticIterativeScheduler

    theirs = CMStochasticIterativeScheduler(sigma_min=0.002, sigma_data=0.5)
    denoiser = ConsistencyDenoiser(lambda x, c_noise: torch.sin(3 * x))
    x = torch.randn(2, 6)
    torch.testing.assert_close(denoiser(x, torch.tensor(0.002)), x)
    for sigma in (0.05, 0.7, 20.0):
        c_skip, c_out = theirs.get_scalings_for_boundary_condition(torch.tensor(sigma))
        expected = c_skip * x + c_out * torch.sin(3 * x / (sigma**2 + 0.25) ** 0.5)
        torch.testing.assert_close(denoiser(x, torch.tensor(sigma)), expected)


def test_karras_levels_start_where_they_are_told_and_end_at_zero():
    sigmas = karras_sigmas(0.35, 5, sigma_min=0.01)
    assert sigmas.shape == (6,)
    assert sigmas[0] == 0.35
    assert sigmas[-2].item() == pytest.approx(0.01)
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()
    assert karras_sigmas(0.35, 1).tolist() == [0.35, 0.0]
    assert karras_sigmas(0.004, 2, sigma_min=0.01)[1].item() == pytest.approx(0.002)
    for bad in ((0.0, 3), (0.3, 0)):
        with pytest.raises(ValueError, match="must be"):
            karras_sigmas(*bad)


def test_seeded_noise_is_a_function_of_the_seed():
    x = torch.zeros(2, 3, dtype=torch.float64)
    first, again, other = seeded_noise(5), seeded_noise(5), seeded_noise(6)
    drawn = first(x)
    assert drawn.dtype == x.dtype
    assert torch.equal(drawn, again(x))
    assert not torch.equal(drawn, other(x))
    assert not torch.equal(drawn, first(x))
