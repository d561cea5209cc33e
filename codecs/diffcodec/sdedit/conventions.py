"""Prediction type and timestep conventions of pretrained networks, from diffusers' configs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffcodec.diffusion.denoiser import (
    ConsistencyDenoiser,
    Denoiser,
    EDMDenoiser,
    LearnedVarianceDenoiser,
    VPDenoiser,
)
from diffcodec.diffusion.schedule import TimeTable, scheduler_facts, sigmas_of

Network = Callable[..., Tensor]
"""network(x, time) -> prediction, of the shape of x; time is () or (B,)."""

TIME_SCALE = 1000  # consistency models scale c_noise to the range of 1000 timesteps


@dataclass(frozen=True)
class Convention:
    """How to turn a network into a denoiser.

    Attributes:
        wrap: function from a network to D(x; sigma) or to a consistency function.
        is_consistency: whether `wrap` returns a consistency function.
        max_sigma: highest noise level that the network was trained with.
        table: mapping of sigma to the timestep, for a discrete process.
        sigmas: noise levels of a discrete process, (N,) rising.
        wrap_ddpm: function of a network and whether it predicts a variance, for a discrete process.
            It returns D(x; sigma) with x0_hat clamped to [-1, 1], followed by the predicted
            variance if there is one (`LearnedVarianceDenoiser`).
    """

    wrap: Callable[[Network], Denoiser]
    is_consistency: bool
    max_sigma: float
    table: TimeTable | None = None
    sigmas: Tensor | None = None
    wrap_ddpm: Callable[[Network, bool], Denoiser] | None = None


def convention_of(config: Mapping[str, Any]) -> Convention:
    """The convention of a diffusers scheduler config.

    EDM and consistency schedulers are identified by their class name. All others are discrete
    variance-preserving processes with their own abar.

    Raises:
        ValueError: the prediction type is unknown.
    """
    name = str(config.get("_class_name", ""))
    sigma_data = float(config.get("sigma_data", 0.5))
    sigma_max = float(config.get("sigma_max", 80.0))
    if name.startswith("CMStochastic"):
        return consistency_convention(
            sigma_data=sigma_data,
            sigma_min=float(config.get("sigma_min", 0.002)),
            sigma_max=sigma_max,
        )
    if name.startswith("EDM"):
        prediction = config.get("prediction_type", "epsilon")
        if prediction != "epsilon":  # diffusers' name for EDM's own c_skip and c_out
            raise ValueError(f"unknown prediction_type {prediction!r} of {name}, choose epsilon")
        return Convention(
            lambda network: EDMDenoiser(network, sigma_data=sigma_data), False, sigma_max
        )
    alphas_cumprod, prediction = scheduler_facts(config)
    sigmas = sigmas_of(alphas_cumprod)
    table = TimeTable(sigmas, torch.arange(len(sigmas)))

    def wrap(network: Network) -> Denoiser:
        return VPDenoiser(network, prediction=prediction, time_of=table)

    def wrap_ddpm(network: Network, learned_variance: bool) -> Denoiser:
        kind = LearnedVarianceDenoiser if learned_variance else VPDenoiser
        return kind(network, prediction=prediction, time_of=table, clip=True)

    return Convention(wrap, False, float(sigmas[-1]), table, sigmas, wrap_ddpm)


def consistency_convention(
    *, sigma_data: float = 0.5, sigma_min: float = 0.002, sigma_max: float = 80.0
) -> Convention:
    """The convention of consistency models (Song et al. 2023): the network's time is 1000 c_noise.

    Args:
        sigma_data: standard deviation of the data.
        sigma_min: noise level at which the ODE ends.
        sigma_max: highest noise level.
    """

    def wrap(network: Network) -> Denoiser:
        return ConsistencyDenoiser(_scaled(network), sigma_data=sigma_data, sigma_min=sigma_min)

    return Convention(wrap, True, sigma_max)


def openai_edm_convention() -> Convention:
    """The convention of OpenAI's EDM checkpoints, the teachers of its consistency models."""
    return Convention(lambda network: EDMDenoiser(_scaled(network)), False, 80.0)


# Names of guided-diffusion's schedules -> scheduler options of diffusers.
ADM_SCHEDULES: dict[str, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}


def adm_convention(noise_schedule: str) -> Convention:
    """The convention of guided-diffusion's ADM: 1000 steps, epsilon prediction.

    Args:
        noise_schedule: a key of `ADM_SCHEDULES`.

    Raises:
        ValueError: the schedule is unknown.
    """
    if noise_schedule not in ADM_SCHEDULES:
        raise ValueError(
            f"unknown noise_schedule {noise_schedule!r}, choose from {', '.join(ADM_SCHEDULES)}"
        )
    return convention_of(
        {
            "_class_name": "DDPMScheduler",
            "num_train_timesteps": 1000,
            "prediction_type": "epsilon",
            **ADM_SCHEDULES[noise_schedule],
        }
    )


def _scaled(network: Network) -> Network:
    return lambda x, c_noise, **condition: network(x, TIME_SCALE * c_noise, **condition)
