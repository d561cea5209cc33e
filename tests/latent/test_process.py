import pytest
import torch
from diffusers import DDIMScheduler

from diffcodec.diffusion.sampler import ddim
from diffcodec.diffusion.schedule import alphas_cumprod_of, cosine_alphas_cumprod
from diffcodec.latent.process import LatentProcess, pure_noise


def process(prediction="v", **options) -> LatentProcess:
    options = {"grid_steps": 50, **options}
    return LatentProcess(cosine_alphas_cumprod(1000), prediction=prediction, **options)


def test_the_grid_has_the_papers_timesteps():
    timesteps = process().timesteps
    assert len(timesteps) == 50
    assert timesteps[:2].tolist() == [19, 39]
    assert timesteps[-1] == 999
    assert process(grid_steps=1000).timesteps.tolist() == [*range(1000)]


def test_sampling_stays_on_the_grid_from_pure_noise_to_nothing():
    one = process()
    for steps in (1, 5, 20, 50):
        sigmas = one.sampling_sigmas(steps)
        assert len(sigmas) == steps + 1
        assert sigmas[0] == one.sigmas[-1]
        assert sigmas[-1] == 0
        assert set(sigmas[:-1].tolist()) <= set(one.sigmas.tolist())
        assert (sigmas.diff() < 0).all()
    with pytest.raises(ValueError, match="1 to 50, got 51"):
        one.sampling_sigmas(51)


def sd21_scheduler() -> DDIMScheduler:
    """As the repository of Stable Diffusion 2.1 has it."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        set_alpha_to_one=False,
        steps_offset=1,
    )


@pytest.mark.parametrize("steps", [5, 20])
def test_leading_timesteps_are_those_of_stable_diffusion_21s_scheduler(steps):
    scheduler = sd21_scheduler()
    one = LatentProcess(scheduler.alphas_cumprod, prediction="v", grid_steps=1000)
    sigmas = one.sampling_sigmas(steps, "leading")
    scheduler.set_timesteps(steps)
    assert len(sigmas) == steps + 1
    told = []

    def network(x, time):
        told.append(int(time))
        return torch.sin(2 * x + time / 500)

    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    x = ddim(one.denoiser(network), pure_noise(start, sigmas[0]), sigmas)
    x = x / (1 + sigmas[-1] ** 2).sqrt().float()
    assert told == scheduler.timesteps.tolist()
    assert told[:1] == [951] or steps == 5
    expected = start
    for time in scheduler.timesteps:
        output = torch.sin(2 * expected + time / 500)
        expected = scheduler.step(output, time, expected, eta=0).prev_sample
    torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)


def test_leading_timesteps_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="spacing=leading needs grid_steps=1000, got 50"):
        process().sampling_sigmas(20, "leading")
    with pytest.raises(ValueError, match="1 to 500 with spacing=leading, got 501"):
        process(grid_steps=1000).sampling_sigmas(501, "leading")
    with pytest.raises(ValueError, match="unknown spacing 'trailing', choose from grid, leading"):
        process().sampling_sigmas(20, "trailing")


@pytest.mark.parametrize("grid_steps", [0, 1001])
def test_a_grid_that_does_not_fit_is_refused(grid_steps):
    with pytest.raises(ValueError, match=f"1 to 1000, got {grid_steps}"):
        process(grid_steps=grid_steps)


def test_the_loss_is_the_squared_error_of_v():
    one = process()
    x0, eps, v_hat = torch.randn(3, 4, 4, 8, 8, dtype=torch.float64)
    sigma = one.sigmas[torch.tensor([0, 10, 30, 49])]
    abar = alphas_cumprod_of(sigma).reshape(-1, 1, 1, 1)
    loss, x0_hat = one.v_loss(lambda x_t, time: v_hat, x0, eps, sigma)
    v = abar.sqrt() * eps - (1 - abar).sqrt() * x0
    torch.testing.assert_close(loss, (v_hat - v).square().mean((1, 2, 3)))
    x_t = abar.sqrt() * x0 + (1 - abar).sqrt() * eps
    torch.testing.assert_close(x0_hat, abar.sqrt() * x_t - (1 - abar).sqrt() * v_hat)


def test_the_network_is_told_the_timestep():
    one, told = process(), []
    denoiser = one.denoiser(lambda x_t, time: told.append(time.tolist()) or x_t)
    denoiser(torch.zeros(2, 1), one.sigmas[torch.tensor([3, 49])])
    assert told == [[79.0, 999.0]]


def test_a_schedule_that_ends_in_pure_noise_is_sampled():
    abar = torch.linspace(1, 0, 1001, dtype=torch.float64)[1:]
    one = LatentProcess(abar, prediction="v", grid_steps=50)
    assert one.sigmas.isfinite().all()
    sigmas = one.sampling_sigmas(5)
    start = pure_noise(torch.randn(1, 4, 8, 8), sigmas[0])
    assert ddim(one.denoiser(lambda x_t, time: x_t), start, sigmas).isfinite().all()


def test_sampling_starts_at_unit_variance():
    noise = torch.randn(1, 4, 16, 16)
    seen = []
    one = process()
    sigmas = one.sampling_sigmas(1)
    denoiser = one.denoiser(lambda x_t, time: seen.append(x_t) or x_t)
    denoiser(pure_noise(noise, sigmas[0]), sigmas[0])
    torch.testing.assert_close(seen[0], noise, rtol=1e-5, atol=1e-5)
