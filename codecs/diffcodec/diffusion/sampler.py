"""Samplers: free functions that walk a denoiser down a list of noise levels."""

from itertools import pairwise
from typing import Any

from torch import Tensor

from diffcodec.diffusion.denoiser import Denoiser, like


def ddim(denoiser: Denoiser, x: Tensor, sigmas: Tensor, **condition: Any) -> Tensor:
    """Deterministic DDIM (Song et al. 2021, eta = 0): Euler steps in sigma.

    The ODE is dx/dsigma = (x - D(x; sigma)) / sigma.

    Args:
        denoiser: D(x; sigma).
        x: the noisy image at `sigmas[0]`, (B, …).
        sigmas: noise levels, (S + 1,) falling; where the last is 0 the result is D's own estimate.
        condition: handed to the denoiser.
    """
    for sigma, sigma_next in pairwise(sigmas):
        x0 = denoiser(x, sigma, **condition)
        x = x0 + like(x, sigma_next / sigma) * (x - x0)
    return x
