import pytest
import torch

from diffcodec.diffusion.denoiser import (
    PREDICTIONS,
    ConsistencyDenoiser,
    EDMDenoiser,
    VPDenoiser,
    like,
    min_snr,
)
from tests.gaussian import Gaussian, log_sigma


@pytest.fixture
def gaussian() -> Gaussian:
    return Gaussian()


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sigma", [0.01, 1.0, 30.0])
def test_every_parameterization_gives_the_same_estimate(gaussian, prediction, sigma):
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64) * (1 + sigma)
    level = torch.tensor(sigma, dtype=torch.float64)
    denoiser = VPDenoiser(gaussian.network(prediction), prediction=prediction, time_of=log_sigma)
    torch.testing.assert_close(denoiser(x, level), gaussian.denoise(x, level), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_noise_level_per_image(gaussian, prediction):
    x = torch.randn(3, 3, 4, 4)
    sigmas = torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)
    denoiser = VPDenoiser(gaussian.network(prediction), prediction=prediction, time_of=log_sigma)
    together = denoiser(x, sigmas)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], denoiser(x[i : i + 1], sigmas[i]))


def test_the_network_sees_unit_variance_its_time_and_the_condition():
    seen = {}

    def network(x_t, time, *, label):
        seen.update(x_t=x_t, time=time, label=label)
        return x_t

    denoiser = VPDenoiser(network, prediction="x0", time_of=lambda sigma: sigma * 2)
    out = denoiser(torch.full((1, 1, 1, 1), 5.0), torch.tensor(2.0), label="cat")
    assert seen["x_t"].item() == pytest.approx(5 / 5**0.5)
    assert seen["time"].item() == 4
    assert seen["time"].dtype == torch.float32
    assert seen["label"] == "cat"
    assert out.item() == pytest.approx(5 / 5**0.5)


def test_clip_keeps_the_estimate_in_range():
    denoiser = VPDenoiser(lambda x, t: 3 * x, prediction="x0", time_of=log_sigma, clip=True)
    x0 = denoiser(torch.tensor([[-2.0, 0.1, 2.0]]), torch.tensor(0.5))
    assert x0.min() == -1
    assert x0.max() == 1


def test_an_unknown_prediction_lists_the_choices():
    with pytest.raises(ValueError, match=r"'score'.*'x0', 'eps', 'v'"):
        VPDenoiser(lambda x, t: x, prediction="score", time_of=log_sigma)


def test_like_broadcasts_over_everything_but_the_batch():
    x = torch.zeros(2, 3, 4, 4)
    assert like(x, torch.tensor(1.0, dtype=torch.float64)).shape == (1, 1, 1, 1)
    assert like(x, torch.tensor([1.0, 2.0], dtype=torch.float64)).shape == (2, 1, 1, 1)
    assert like(x, torch.tensor(1.0, dtype=torch.float64)).dtype == torch.float32


SIGMAS = torch.tensor([0.01, 0.5, 3.0, 200.0], dtype=torch.float64)


def draws() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x0, noise and what the network predicts, whatever it sees: (4, 3, 4, 4) each."""
    return torch.randn(3, 4, 3, 4, 4, dtype=torch.float64).unbind()


def each(values: torch.Tensor) -> torch.Tensor:
    return values.reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_networks_loss_is_the_error_of_what_it_predicts(prediction):
    x0, noise, output = draws()
    abar = each(1 / (1 + SIGMAS**2))
    v = abar.sqrt() * noise - (1 - abar).sqrt() * x0
    target = {"x0": x0, "eps": noise, "v": v}[prediction]
    one = VPDenoiser(lambda x, t: output, prediction=prediction, time_of=log_sigma)
    loss, x0_hat = one.loss(x0, noise, SIGMAS)
    torch.testing.assert_close(loss, (output - target).square().mean((1, 2, 3)))
    torch.testing.assert_close(x0_hat, one(x0 + each(SIGMAS) * noise, SIGMAS))
    loss, _ = one.loss(x0, noise, SIGMAS, error=torch.abs)
    torch.testing.assert_close(loss, (output - target).abs().mean((1, 2, 3)))
    loss, _ = one.loss(x0, noise, SIGMAS, weight=one.v_weight)
    v_error = each((1 + SIGMAS**2) / SIGMAS**2) * (x0_hat - x0).square()
    torch.testing.assert_close(loss, v_error.mean((1, 2, 3)), rtol=1e-6, atol=0)


def test_the_weight_of_x0_is_the_snr_up_to_a_maximum():
    x0, noise, output = draws()
    one = VPDenoiser(lambda x, t: output, prediction="x0", time_of=log_sigma)
    loss, _ = one.loss(x0, noise, SIGMAS, weight=lambda sigma: min_snr(sigma, 5.0))
    weight = torch.tensor([5.0, 4.0, 1 / 9, 1 / 40_000], dtype=torch.float64)
    torch.testing.assert_close(loss, weight * (output - x0).square().mean((1, 2, 3)))


@pytest.mark.parametrize("kind", [EDMDenoiser, ConsistencyDenoiser])
def test_edms_loss_is_the_error_of_x0_in_units_of_its_output(kind):
    x0, noise, output = draws()
    one = kind(lambda x, c_noise: output)
    loss, x0_hat = one.loss(x0, noise, SIGMAS)
    _, c_out, _ = one.scalings(SIGMAS)
    torch.testing.assert_close(loss, (x0_hat - x0).square().mean((1, 2, 3)) / c_out**2)
    if kind is EDMDenoiser:  # lambda(sigma) of Karras et al. (2022), Table 1
        weight = (SIGMAS**2 + 0.25) / (0.5 * SIGMAS) ** 2
        torch.testing.assert_close(loss, weight * (x0_hat - x0).square().mean((1, 2, 3)))
