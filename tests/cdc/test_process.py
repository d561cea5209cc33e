import pytest
import torch

from diffcodec.cdc.process import build_process


def test_the_two_processes_are_the_released_ones():
    x0, eps = build_process("x0"), build_process("eps")
    assert (x0.num_timesteps, eps.num_timesteps) == (8193, 20000)
    assert build_process("eps", 100).num_timesteps == 100
    with pytest.raises(ValueError, match=r"'v'.*'x0', 'eps'"):
        build_process("v")


def test_times_while_sampling():
    # x0 is told where it is in the process, eps the share of steps that are left.
    seen = []

    def network(x, time):
        seen.append(time.item())
        return x

    for prediction in ("x0", "eps"):
        denoiser, sigmas = build_process(prediction, 8193).sampling(network, 5)
        for sigma in sigmas[:-1]:
            denoiser(torch.zeros(1, 3, 2, 2), sigma)
    assert seen[:5] == pytest.approx([t / 8193 for t in (8192, 6144, 4096, 2048, 0)])
    assert seen[5:] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])


def test_only_x0_is_clamped_and_only_while_sampling():
    x = torch.full((1, 3, 2, 2), 5.0)
    for prediction in ("x0", "eps"):
        process = build_process(prediction, 100)
        denoiser, sigmas = process.sampling(lambda x, time: 3 * torch.ones_like(x), 3)
        clamped = denoiser(x, sigmas[-2]).abs().max() <= 1
        assert clamped == (prediction == "x0")
        assert not process.training_denoiser(lambda x, time: x).clip


def test_the_weight_is_the_snr_up_to_five():
    process = build_process("x0", 1000)
    x0, t = torch.zeros(2, 3, 4, 4), torch.tensor([0, 900])
    error, x0_hat = process.loss(lambda x, time: torch.ones_like(x), x0, x0, t)
    assert torch.equal(x0_hat, torch.ones_like(x0))
    abar = process.alphas_cumprod[900].double()
    assert error[0].item() == 5
    assert error[1].item() == pytest.approx((abar / (1 - abar)).item(), rel=1e-5)


def test_eps_has_an_absolute_error_without_weight():
    process = build_process("eps", 1000)
    zero, t = torch.zeros(2, 3, 4, 4), torch.tensor([0, 900])
    eps = torch.randn_like(zero)
    error, x0_hat = process.loss(lambda x, time: eps + 2, zero, eps, t)
    torch.testing.assert_close(error, torch.tensor([2.0, 2.0]))
    expected = -2 * process.sigmas[t].float().reshape(-1, 1, 1, 1).expand_as(zero)
    torch.testing.assert_close(x0_hat, expected, rtol=1e-4, atol=1e-4)
