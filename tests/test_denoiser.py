import pytest
import torch

from diffcodec.diffusion.denoiser import PREDICTIONS, VPDenoiser, like
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
