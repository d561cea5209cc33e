"""Noise schedules: abar of a discrete variance-preserving process, and its noise levels sigma.

abar_t is the signal's share of the variance. It falls from almost 1 (t = 0) to almost 0
(t = N - 1). All values are float64 on the CPU, for which 1 - abar is accurate. Samplers use
sigma^2 = (1 - abar) / abar, the noise level of the same process at the signal's own scale.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
"""Prediction types: diffusers' names -> names of `VPDenoiser`."""


def cosine_alphas_cumprod(
    num_timesteps: int, *, s: float = 0.008, max_beta: float = 0.999
) -> Tensor:
    """abar of the cosine schedule (Nichol & Dhariwal 2021, Eq. 17), (N,) falling.

    Args:
        num_timesteps: number of timesteps N.
        s: offset that prevents too small betas near t = 0.
        max_beta: upper bound of beta.
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
        num_timesteps: number of timesteps N.
        beta_start, beta_end: first and last beta for 1000 timesteps. For another N they are scaled
            by 1000 / N, which keeps the noise level at a given t / N.
    """
    _check_length(num_timesteps)
    scale = 1000 / num_timesteps
    betas = torch.linspace(scale * beta_start, scale * beta_end, num_timesteps, dtype=torch.float64)
    return (1 - betas).cumprod(0)


def scheduler_facts(config: Mapping[str, Any]) -> tuple[Tensor, str]:
    """abar (N,) of the timesteps and the prediction type, from a diffusers scheduler config.

    Args:
        config: config of any discrete scheduler, as saved with a model; it needs no class name.

    Raises:
        ValueError: the prediction type is not in `PREDICTIONS`.
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
    """S = `num_steps` rising timesteps of 0 … N - 1, evenly spaced and truncated to integers, (S,).

    A single step is the last timestep, N - 1.

    Raises:
        ValueError: `num_steps` is not in 1 … N.
    """
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(f"the number of steps must be in 1 to {num_timesteps}, got {num_steps}")
    if num_steps == 1:
        return torch.tensor([num_timesteps - 1])
    # In float32, as in the released decoders, because the truncation depends on the rounding.
    return torch.linspace(0, num_timesteps - 1, num_steps, dtype=torch.float32).long()


def respaced_timesteps(num_timesteps: int, num_steps: int) -> Tensor:
    """S = `num_steps` rising timesteps of 0 … N - 1, evenly spaced and rounded, (S,).

    They are those of guided-diffusion's `timestep_respacing`. A single step is the first timestep,
    0.

    Raises:
        ValueError: `num_steps` is not in 1 … N.
    """
    if not 1 <= num_steps <= num_timesteps:
        raise ValueError(f"the number of steps must be in 1 to {num_timesteps}, got {num_steps}")
    stride = (num_timesteps - 1) / max(num_steps - 1, 1)
    strides = torch.full((num_steps,), stride, dtype=torch.float64)
    strides[0] = 0
    # By cumulative sums, as in guided-diffusion, because the rounding of halves depends on them.
    return strides.cumsum(0).round().long()


def karras_sigmas(
    sigma_max: float, num_steps: int, *, sigma_min: float = 0.002, rho: float = 7.0
) -> Tensor:
    """Noise levels of a sampler (Karras et al. 2022, Eq. 5): sigma_max … sigma_min, 0; (S + 1,).

    Args:
        sigma_max: first level.
        num_steps: number of steps S. A single step goes from sigma_max directly to 0.
        sigma_min: last level above 0; at most sigma_max / 2 is used.
        rho: exponent that concentrates the levels near 0; 1 spaces them evenly.

    Raises:
        ValueError: a level is not positive, or num_steps is below 1.
    """
    if num_steps < 1:
        raise ValueError(f"the number of steps must be at least 1, got {num_steps}")
    if not (sigma_max > 0 and sigma_min > 0):
        raise ValueError(f"noise levels must be positive, got {sigma_max} and {sigma_min}")
    ends = [sigma_max, min(sigma_min, sigma_max / 2)]
    first, last = torch.tensor(ends, dtype=torch.float64) ** (1 / rho)
    ramp = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    levels = (first + ramp * (last - first)) ** rho
    levels[0] = sigma_max  # exact: the noise was added at this level
    return torch.cat([levels, levels.new_zeros(1)])


class TimeTable:
    """Lookup of a network's time by noise level.

    Args:
        sigmas: rising noise levels above 0, (N,).
        times: time of the network at each noise level, (N,).
    """

    def __init__(self, sigmas: Tensor, times: Tensor) -> None:
        self.times = times
        self._borders = (sigmas[1:] * sigmas[:-1]).sqrt()

    def __call__(self, sigma: Tensor) -> Tensor:
        """Noise levels -> times of the nearest levels in log sigma, in the same shape."""
        return self.times[torch.bucketize(sigma, self._borders)]


def _check_length(num_timesteps: int) -> None:
    if num_timesteps < 1:
        raise ValueError(f"a schedule has at least one step, got {num_timesteps}")
