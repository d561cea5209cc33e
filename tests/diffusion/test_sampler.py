import pytest
import torch

from diffcodec.diffusion.denoiser import PREDICTIONS, VPDenoiser
from diffcodec.diffusion.sampler import SAMPLERS, ddim, find_sampler, seeded_noise
from diffcodec.diffusion.schedule import (
    TimeTable,
    karras_sigmas,
    linear_alphas_cumprod,
    sigmas_of,
    spaced_timesteps,
)
from tests.gaussian import Gaussian, log_sigma


def _ramp(start: float, end: float, count: int) -> torch.Tensor:
    return torch.linspace(start, end, count + 1, dtype=torch.float64)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_ddim_converges_to_the_flow_of_a_gaussian_at_first_order(prediction):
    gaussian = Gaussian()
    denoiser = VPDenoiser(gaussian.network(prediction), prediction=prediction, time_of=log_sigma)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64) * 10
    exact = gaussian.flow(x, 10, 0.05)
    errors = [
        (ddim(denoiser, x, _ramp(10**0.5, 0.05**0.5, n) ** 2) - exact).abs().max().item()
        for n in (200, 400)
    ]
    assert errors[1] < 0.02
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.15)


def test_ddim_down_to_zero_ends_with_the_denoisers_estimate():
    gaussian = Gaussian()
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    sigmas = torch.tensor([2.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(
        ddim(gaussian.denoise, x, sigmas), gaussian.denoise(x, sigmas[0]), rtol=0, atol=0
    )


def test_ddim_hands_the_condition_on():
    def denoiser(x, sigma, *, target):
        return target

    target = torch.ones(1, 1)
    out = ddim(denoiser, torch.zeros(1, 1), _ramp(3, 0, 3), target=target)
    torch.testing.assert_close(out, target)


def test_ddim_agrees_with_diffusers():
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(
        1000,
        beta_start=1e-4,
        beta_end=2e-2,
        beta_schedule="linear",
        clip_sample=False,
        set_alpha_to_one=True,
        timestep_spacing="leading",
    )
    theirs.set_timesteps(10)
    weight = torch.randn(16, 16) / 4

    def network(x_t, time):
        return torch.tanh(x_t @ weight + time.reshape(-1, 1))

    sigmas = sigmas_of(linear_alphas_cumprod(1000).float())
    t = theirs.timesteps
    table = TimeTable(sigmas, torch.arange(1000) / 1000)
    denoiser = VPDenoiser(network, prediction="eps", time_of=table)
    levels = torch.cat([sigmas[t], sigmas.new_zeros(1)])

    x_t = torch.randn(2, 16)
    x = x_t * (1 + levels[0] ** 2).sqrt().float()
    for step in t:
        x_t = theirs.step(network(x_t, step / 1000), step, x_t).prev_sample
    torch.testing.assert_close(ddim(denoiser, x, levels), x_t, rtol=1e-4, atol=1e-4)


def test_spaced_steps_of_a_schedule_make_falling_levels():
    sigmas = sigmas_of(linear_alphas_cumprod(1000))[spaced_timesteps(1000, 5)].flip(0)
    assert (sigmas.diff() < 0).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_are_found_by_name_and_called_alike(name):
    gaussian = Gaussian()
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64) * 10
    out = find_sampler(name)(gaussian.denoise, x, _ramp(10, 0, 30), noise=seeded_noise(0))
    assert out.shape == x.shape
    assert (out - gaussian.mean).abs().max() < 5 * gaussian.std


def test_an_unknown_sampler_lists_the_choices():
    with pytest.raises(ValueError, match="sampler 'heun', choose from ddim, dpmpp_2m, euler_sde"):
        find_sampler("heun")


@pytest.mark.parametrize("name", SAMPLERS)
def test_overwriting_changes_nothing_but_memory(name):
    sigmas = karras_sigmas(5.0, 6)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    kept = x.clone()
    sample = find_sampler(name)

    def denoiser(x, sigma):
        return x / (1 + sigma**2).float() + 0.1

    expected = sample(denoiser, x, sigmas, noise=seeded_noise(0))
    assert torch.equal(x, kept)
    out = sample(denoiser, x, sigmas, noise=seeded_noise(0), overwrite=True)
    assert torch.equal(out, expected)
