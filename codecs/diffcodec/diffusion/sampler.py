"""Samplers: free functions that walk a denoiser down a list of noise levels.

All are called alike, `(denoiser, x, sigmas, *, noise, **condition)`, and those of `SAMPLERS` may
stand in for each other. These can also `overwrite` what they are given and what the denoiser
returns, where nobody else looks at it, the denoiser does not return its input and no gradients
flow: a sampler then holds two or three copies of a large image and not five.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffcodec.diffusion.denoiser import Denoiser, like

Noise = Callable[[Tensor], Tensor]
"""A tensor -> standard normal noise like it, another one with every call."""


def seeded_noise(seed: int) -> Noise:
    """Noise that is a function of the seed: drawn on the CPU in float32, the same on any device."""
    generator = torch.Generator().manual_seed(seed)
    return lambda x: torch.randn(x.shape, generator=generator).to(x)


def ddim(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: Noise | None = None,
    overwrite: bool = False,
    **condition: Any,
) -> Tensor:
    """Deterministic DDIM (Song et al. 2021, eta = 0): Euler steps in sigma.

    The ODE is dx/dsigma = (x - D(x; sigma)) / sigma.

    Args:
        denoiser: D(x; sigma).
        x: the noisy image at `sigmas[0]`, (B, …).
        sigmas: noise levels, (S + 1,) falling; where the last is 0 the result is D's own estimate.
        noise: is not drawn.
        overwrite: use the memory of x.
        condition: handed to the denoiser.
    """
    for sigma, sigma_next in pairwise(sigmas):
        x0 = denoiser(x, sigma, **condition)
        x = _towards(x, x0, sigma_next / sigma, overwrite=overwrite)
        del x0  # before the next one is made
    return x


def dpmpp_2m(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: Noise | None = None,
    overwrite: bool = False,
    **condition: Any,
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2): the same ODE at second order.

    Of the estimates of x0 at the last two levels it extrapolates the one that is best held over
    the step in ln(sigma); each level costs one evaluation. The first step and one down to 0 are
    DDIM's.

    Args:
        denoiser, x, noise, overwrite, condition: as of `ddim`.
        sigmas: as of `ddim`, or (S + 1, B): levels for each image.
    """
    previous: Tensor | None = None
    h_last = torch.tensor(0.0)
    for sigma, sigma_next in pairwise(sigmas):
        x0 = denoiser(x, sigma, **condition)
        h = (sigma / sigma_next).log()
        held = x0
        if previous is not None and (sigma_next > 0).all():
            held = previous.sub_(x0).neg_() if overwrite else x0 - previous
            held = held.mul_(like(x, h / (2 * h_last))).add_(x0)
        previous, h_last = x0, h
        x = _towards(x, held, sigma_next / sigma, overwrite=overwrite)
        del x0, held
    return x


def euler_sde(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: Noise,
    overwrite: bool = False,
    **condition: Any,
) -> Tensor:
    """The reverse SDE by ancestral steps (SDEdit, Eq. 5).

    Args:
        denoiser, x, sigmas, overwrite, condition: as of `ddim`.
        noise: what is added after each step but one down to 0.
    """
    for sigma, sigma_next in pairwise(sigmas):
        x0 = denoiser(x, sigma, **condition)
        x = ancestral_step(x, x0, sigma, sigma_next, noise, overwrite=overwrite)
        del x0
    return x


def ancestral_step(
    x: Tensor,
    x0: Tensor,
    sigma: Tensor,
    sigma_next: Tensor,
    noise: Noise,
    *,
    v: Tensor | None = None,
    overwrite: bool = False,
) -> Tensor:
    """A draw of the noisy image at `sigma_next` given the one at `sigma` and the clean one.

    With r = sigma_next^2 / sigma^2 its mean is r x + (1 - r) x0, an Euler step of the reverse SDE,
    and its variance (1 - r) sigma_next^2, which is DDPM's beta_tilde.

    Args:
        x, x0: noisy and clean image, (B, …).
        sigma, sigma_next: noise levels, ().
        noise: what is added, unless it is a step down to 0.
        v: a learned variance, of the shape of x: from DDPM's beta_tilde at -1 to its beta at 1,
            evenly in the logarithm (Nichol & Dhariwal 2021, Eq. 15). None is -1.
        overwrite: use the memory of x.
    """
    ratio = (sigma_next / sigma) ** 2
    x_next = _towards(x, x0, ratio, overwrite=overwrite)
    if sigma_next > 0:
        added = noise(x).mul_(like(x, sigma_next * (1 - ratio).sqrt()))
        if v is not None:
            # beta / beta_tilde = (1 - abar) / (1 - abar_next), and v is in half of its logarithm
            above = (sigma**2 * (1 + sigma_next**2) / (sigma_next**2 * (1 + sigma**2))).log()
            added = added.mul_((like(x, above / 4) * (v + 1)).exp())
        x_next = added.add_(x_next)
    return x_next


def _towards(x: Tensor, x0: Tensor, ratio: Tensor, *, overwrite: bool) -> Tensor:
    """x0 + ratio (x - x0)."""
    difference = x.sub_(x0) if overwrite else x - x0
    return difference.mul_(like(x, ratio)).add_(x0)


def consistency(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    noise: Noise,
    sigma_min: float = 0.002,
    **condition: Any,
) -> Tensor:
    """Multistep consistency sampling (Song et al. 2023, Algorithm 1).

    Args:
        denoiser: a consistency function f(x, sigma).
        x: the noisy image at `sigmas[0]`, (B, …).
        sigmas: noise levels, (S + 1,) falling to 0. Each but the last is one evaluation; with one
            step no noise is drawn.
        noise: what is added between two evaluations.
        sigma_min: the level at which f leaves its input alone.
        condition: handed to the function.
    """
    x0 = denoiser(x, sigmas[0], **condition)
    for sigma in sigmas[1:-1]:
        added = (sigma**2 - sigma_min**2).clamp(min=0).sqrt()
        x0 = denoiser(noise(x).mul_(like(x, added)).add_(x0), sigma, **condition)
    return x0


Sampler = Callable[..., Tensor]

SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "dpmpp_2m": dpmpp_2m, "euler_sde": euler_sde}
"""Those that go down any noise levels with any denoiser: two of the ODE, one of the SDE."""


def find_sampler(name: str) -> Sampler:
    """A sampler by its name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}, choose from {', '.join(SAMPLERS)}")
    return SAMPLERS[name]
