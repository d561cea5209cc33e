"""Noise schedules: abar (signal kept) of a discrete variance-preserving process, and its sigmas.

abar_t falls from almost 1 (t = 0) to almost 0 (t = N - 1). Everything is float64 on the CPU, where
1 - abar does not cancel; samplers see sigma^2 = (1 - abar) / abar, the noise level of the same
process with the signal kept at its own scale.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
"""What a network may predict: diffusers' names -> those of `VPDenoiser`."""


def cosine_alphas_cumprod(
    num_timesteps: int, *, s: float = 0.008, max_beta: float = 0.999
) -> Tensor:
    """abar of the cosine schedule (Nichol & Dhariwal 2021, Eq. 17), (N,) falling.

    Args:
        num_timesteps: N.
        s: offset that keeps the first steps from being too small.
        max_beta: the largest share of variance that one step may replace.
    """
    _check_length(num_timesteps)
    u = torch.linspace(0, 1, num_timesteps + 1, dtype=torch.float64)
    f = torch.cos((u + s) / (1 + s) * math.pi / 2) ** 2
    betas = (1 - f[1:] / f[:-1]).clamp(0, max_beta)
    return (1 - betas).cumprod(0)


def linear_alphas_cumprod(
    num_timesteps: int, *, beta_start: float = 1e-4, beta_end: float = 2e-2
) -> Tensor:
    """abar of the linear schedule (Ho et al. 2020, Sec. 4), (N,) falling.

    Args:
        num_timesteps: N.
        beta_start, beta_end: first and last beta of the schedule of 1000 steps; for another N
            they are scaled by 1000 / N, which keeps the noise level at a given t / N.
    """
    _check_length(num_timesteps)
    scale = 1000 / num_timesteps
    betas = torch.linspace(scale * beta_start, scale * beta_end, num_timesteps, dtype=torch.float64)
    return (1 - betas).cumprod(0)


def scheduler_facts(config: Mapping[str, Any]) -> tuple[Tensor, str]:
    """A diffusers scheduler config -> abar (N,) of its timesteps and what the network predicts.

    Args:
        config: as saved next to a model, of any discrete scheduler, with or without a class name.

    Raises:
        ValueError: another prediction than those of `PREDICTIONS`.
    """
    from diffusers import DDPMScheduler

    name = config.get("prediction_type", "epsilon")
    if name not in PREDICTIONS:
        raise ValueError(f"unknown prediction_type {name!r}, choose from {', '.join(PREDICTIONS)}")
    known = re.compile("num_train_timesteps|beta_|trained_betas|rescale_betas")
    options = {key: value for key, value in config.items() if known.match(key)}
    scheduler: Any = DDPMScheduler(**options)
    return scheduler.alphas_cumprod.double(), PREDICTIONS[name]


def sigmas_of(alphas_cumprod: Tensor) -> Tensor:
    """abar in (0, 1] -> sigma = sqrt((1 - abar) / abar), any shape."""
    alphas_cumprod = alphas_cumprod.double()
    return ((1 - alphas_cumprod) / alphas_cumprod).sqrt()


def alphas_cumprod_of(sigmas: Tensor) -> Tensor:
    """sigma >= 0 -> abar = 1 / (1 + sigma^2), any shape."""
    return 1 / (1 + sigmas.double() ** 2)


def spaced_timesteps(num_timesteps: int, num_steps: int) -> Tensor:
    """`num_steps` of the steps 0 … N - 1, evenly spaced and truncated to integers, rising (S,).

    One step alone is the last, N - 1.

    Raises:
        ValueError: `num_steps` is not in 1 … N.
    """
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(f"the number of steps must be in 1 to {num_timesteps}, got {num_steps}")
    if num_steps == 1:
        return torch.tensor([num_timesteps - 1])
    # In float32, as released decoders do: what is truncated depends on it.
    return torch.linspace(0, num_timesteps - 1, num_steps, dtype=torch.float32).long()


def respaced_timesteps(num_timesteps: int, num_steps: int) -> Tensor:
    """`num_steps` of the steps 0 … N - 1, evenly spaced and rounded, rising (S,).

    Those of guided-diffusion's `timestep_respacing`. One step alone is the first, 0.

    Raises:
        ValueError: `num_steps` is not in 1 … N.
    """
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(f"the number of steps must be in 1 to {num_timesteps}, got {num_steps}")
    stride = (num_timesteps - 1) / max(num_steps - 1, 1)
    strides = torch.full((num_steps,), stride, dtype=torch.float64)
    strides[0] = 0
    # By sums, as there: which way a half is rounded depends on it.
    return strides.cumsum(0).round().long()


def karras_sigmas(
    sigma_max: float, num_steps: int, *, sigma_min: float = 0.002, rho: float = 7.0
) -> Tensor:
    """Noise levels of a sampler (Karras et al. 2022, Eq. 5): sigma_max … sigma_min, 0; (S + 1,).

    Args:
        sigma_max: the first level.
        num_steps: S. One step goes from sigma_max to 0 at once.
        sigma_min: the last level above 0; where sigma_max is not twice as high, half of that.
        rho: how densely the low levels are covered; 1 is evenly.

    Raises:
        ValueError: a level that is not positive, or no step.
    """
    if num_steps < 1:
        raise ValueError(f"the number of steps must be at least 1, got {num_steps}")
    if not (sigma_max > 0 and sigma_min > 0):
        raise ValueError(f"noise levels must be positive, got {sigma_max} and {sigma_min}")
    ends = [sigma_max, min(sigma_min, sigma_max / 2)]
    first, last = torch.tensor(ends, dtype=torch.float64) ** (1 / rho)
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    levels = (first + ramp * (last - first)) ** rho
    levels[0] = sigma_max  # to the last digit: the noise that was added has this level
    return torch.cat([levels, levels.new_zeros(1)])


class TimeTable:
    """The time that a network was trained with, looked up by noise level.

    Args:
        sigmas: noise levels, (N,) rising and above 0.
        times: what the network is told at each of them, (N,).
    """

    def __init__(self, sigmas: Tensor, times: Tensor) -> None:
        self.times = times
        self._borders = (sigmas[1:] * sigmas[:-1]).sqrt()

    def __call__(self, sigma: Tensor) -> Tensor:
        """Noise levels of any shape -> the time of the nearest (in log sigma), same shape."""
        return self.times[torch.bucketize(sigma, self._borders)]


def _check_length(num_timesteps: int) -> None:
    if num_timesteps < 1:
        raise ValueError(f"a schedule has at least one step, got {num_timesteps}")
