import math

import pytest
import torch

from diffcodec.diffusion import schedule


def test_cosine_schedule_follows_its_formula_until_it_is_clipped():
    abar = schedule.cosine_alphas_cumprod(1000)

    def f(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in (0, 1, 499, 998):
        assert abar[t].item() == pytest.approx(f((t + 1) / 1000) / f(0), rel=1e-9)
    assert abar[999] == pytest.approx(abar[998].item() * 1e-3)


def test_linear_schedule_keeps_the_noise_of_a_time_for_any_length():
    short = schedule.linear_alphas_cumprod(1000)
    long = schedule.linear_alphas_cumprod(20000)
    assert short[0].item() == pytest.approx(1 - 1e-4)
    assert long[9999].log().item() == pytest.approx(short[499].log().item(), rel=5e-3)


def test_linear_schedule_agrees_with_diffusers():
    from diffusers import DDPMScheduler

    theirs = DDPMScheduler(1000, beta_start=1e-4, beta_end=2e-2, beta_schedule="linear")
    torch.testing.assert_close(
        schedule.linear_alphas_cumprod(1000).float(), theirs.alphas_cumprod, rtol=1e-4, atol=1e-9
    )


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_schedules_fall_and_convert_to_sigmas_and_back(name):
    abar = getattr(schedule, f"{name}_alphas_cumprod")(8193)
    assert (abar.diff() < 0).all()
    assert 0 < abar[-1] < abar[0] < 1
    sigmas = schedule.sigmas_of(abar)
    assert (sigmas.diff() > 0).all()
    torch.testing.assert_close(schedule.alphas_cumprod_of(sigmas), abar, rtol=1e-9, atol=0)


def test_spaced_timesteps_are_truncated_and_hold_both_ends():
    assert schedule.spaced_timesteps(8193, 17).tolist() == [512 * i for i in range(17)]
    assert schedule.spaced_timesteps(10, 4).tolist() == [0, 3, 6, 9]
    assert schedule.spaced_timesteps(10, 3).tolist() == [0, 4, 9]
    assert schedule.spaced_timesteps(10, 1).tolist() == [9]


@pytest.mark.parametrize("steps", [0, 11])
def test_spaced_timesteps_refuse_a_number_outside_the_process(steps):
    with pytest.raises(ValueError, match=f"1 to 10, got {steps}"):
        schedule.spaced_timesteps(10, steps)


def test_a_schedule_needs_a_step():
    with pytest.raises(ValueError, match="at least one step"):
        schedule.cosine_alphas_cumprod(0)


def test_time_table_finds_the_nearest_level():
    table = schedule.TimeTable(torch.tensor([0.1, 1.0, 10.0]), torch.tensor([0.0, 0.5, 0.9]))
    assert table(torch.tensor(1.0)).item() == 0.5
    found = table(torch.tensor([0.01, 0.1, 0.3, 0.4, 3.0, 99.0]))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 0.0, 0.5, 0.5, 0.9]))


def test_time_table_finds_every_step_of_a_process():
    sigmas = schedule.sigmas_of(schedule.cosine_alphas_cumprod(8193).float())
    times = torch.arange(8193) / 8193
    torch.testing.assert_close(schedule.TimeTable(sigmas, times)(sigmas), times, rtol=0, atol=0)


def test_facts_of_a_diffusers_scheduler():
    config = {
        "_class_name": "DDIMScheduler",
        "prediction_type": "v_prediction",
        "beta_schedule": "linear",
        "num_train_timesteps": 10,
        "clip_sample": True,
    }
    abar, prediction = schedule.scheduler_facts(config)
    torch.testing.assert_close(abar, (1 - torch.linspace(1e-4, 2e-2, 10)).cumprod(0).double())
    assert prediction == "v"


def test_another_prediction_is_refused():
    with pytest.raises(ValueError, match="'score', choose from epsilon, v_prediction, sample"):
        schedule.scheduler_facts({"prediction_type": "score"})
