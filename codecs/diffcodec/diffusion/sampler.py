"""Samplers: functions that evaluate a denoiser along falling noise levels.

All samplers have the signature `(denoiser, x, sigmas, *, noise, **condition)`. Those in `SAMPLERS`
are interchangeable and have an option `overwrite` to work in place: they overwrite x and the
denoiser's outputs, and hold two or three copies of a large image instead of five. It requires that
no other code uses these tensors, that the denoiser does not return its input, and that no gradients
are needed.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffcodec.diffusion.denoiser import Denoiser, like

Noise = Callable[[Tensor], Tensor]
"""Function that returns new standard normal noise like a tensor on every call."""


def seeded_noise(seed: int) -> Noise:
    """Noise from a seed, drawn on the CPU in float32 and therefore the same on every device."""
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
        x: noisy image at `sigmas[0]`, (B, …).
        sigmas: falling noise levels, (S + 1,); if the last one is 0, the result is D's last
            estimate.
        noise: unused.
        overwrite: whether to work in place, see the module's docstring.
        condition: keyword arguments of the denoiser.
    """
    for sigma, sigma_next in pairwise(sigmas):
        x0 = denoiser(x, sigma, **condition)
        x = _towards(x, x0, sigma_next / sigma, overwrite=overwrite)
        del x0  # free it before the next evaluation
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
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2), a second-order solver of the same ODE.

    A step uses an estimate of x0 that is extrapolated in ln(sigma) from the last two levels. Each
    level takes one evaluation. The first step and a step to 0 are DDIM steps.

    Args:
        denoiser, x, noise, overwrite, condition: see `ddim`.
        sigmas: falling noise levels, (S + 1,), or (S + 1, B) with levels for each image.
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
        denoiser, x, sigmas, overwrite, condition: see `ddim`.
        noise: source of the noise added after each step, except a step to 0.
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
    """Draw the noisy image at `sigma_next`, given the noisy image at `sigma` and the clean image.

    With r = sigma_next^2 / sigma^2, the mean is r x + (1 - r) x0, an Euler step of the reverse SDE,
    and the variance is (1 - r) sigma_next^2, which is DDPM's beta_tilde.

    Args:
        x, x0: noisy and clean image, (B, …).
        sigma, sigma_next: noise levels, ().
        noise: source of the added noise; a step to 0 adds none.
        v: learned variance in the shape of x, which interpolates the log variance from DDPM's
            beta_tilde at -1 to beta at 1 (Nichol & Dhariwal 2021, Eq. 15). None stands for -1.
        overwrite: whether to work in place, see the module's docstring.
    """
    ratio = (sigma_next / sigma) ** 2
    x_next = _towards(x, x0, ratio, overwrite=overwrite)
    if sigma_next > 0:
        added = noise(x).mul_(like(x, sigma_next * (1 - ratio).sqrt()))
        if v is not None:
            # beta / beta_tilde = (1 - abar) / (1 - abar_next); (v + 1) / 2 scales its logarithm
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
        denoiser: consistency function f(x, sigma).
        x: noisy image at `sigmas[0]`, (B, …).
        sigmas: noise levels falling to 0, (S + 1,). Each level except the last takes one
            evaluation. One step draws no noise.
        noise: source of the noise added between evaluations.
        sigma_min: noise level at which f is the identity.
        condition: keyword arguments of the consistency function.
    """
    x0 = denoiser(x, sigmas[0], **condition)
    for sigma in sigmas[1:-1]:
        added = (sigma**2 - sigma_min**2).clamp(min=0).sqrt()
        x0 = denoiser(noise(x).mul_(like(x, added)).add_(x0), sigma, **condition)
    return x0


Sampler = Callable[..., Tensor]

SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "dpmpp_2m": dpmpp_2m, "euler_sde": euler_sde}
"""Samplers for any noise levels and any denoiser: two for the ODE, one for the SDE."""


def find_sampler(name: str) -> Sampler:
    """Find a sampler by name.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in SAMPLERS:
        raise ValueError(f"unknown sampler {name!r}, choose from {', '.join(SAMPLERS)}")
    return SAMPLERS[name]
