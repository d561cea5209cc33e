"""Guidance of the denoiser's estimate (classifier-free) or of the sampler (DPS)."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffcodec.diffusion.denoiser import Denoiser, like
from diffcodec.diffusion.sampler import Noise, ancestral_step


class ClassifierFreeGuidance:
    """D_null + scale (D - D_null), evaluated as one batch (Ho & Salimans 2022; PerCo, Eq. 5).

    The papers define it on the noise estimate. It is equivalent on D, because the two estimates
    differ by an affine map at a given x and sigma, and the weights sum to one.

    Args:
        denoiser: D(x; sigma, **condition).
        scale: guidance scale. At 1 only the conditional branch is evaluated, at 0 only the
            unconditional one.
        null: conditions that the unconditional branch uses instead, each (B, …) or (1, …). Both
            branches share all other conditions, such as PerCo's spatial codes.
    """

    def __init__(self, denoiser: Denoiser, scale: float, null: Mapping[str, Tensor]) -> None:
        self.denoiser = denoiser
        self.scale = scale
        self.null = dict(null)

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        unguided = condition | {k: v.expand(len(x), *v.shape[1:]) for k, v in self.null.items()}
        if self.scale == 1:
            return self.denoiser(x, sigma, **condition)
        if self.scale == 0:
            return self.denoiser(x, sigma, **unguided)
        both = {k: _twice(unguided[k], v) for k, v in condition.items()}
        sigmas = torch.cat([sigma, sigma]) if sigma.ndim else sigma
        without, with_ = self.denoiser(torch.cat([x, x]), sigmas, **both).chunk(2)
        return without + self.scale * (with_ - without)


def _twice(first: Any, second: Any) -> Any:
    return torch.cat([first, second]) if isinstance(first, Tensor) else second


def dps(
    denoiser: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    *,
    distance: Callable[[Tensor], Tensor],
    zeta: float,
    noise: Noise,
    of_vp: bool = False,
    **condition: Any,
) -> Tensor:
    """The reverse SDE with a constraint on x0_hat (Chung et al. 2022; SDEdit, Eqs. 16 and 17).

        x <- ancestral step - zeta * grad_x distance(D(x; sigma))

    The distance is a norm, not its square: the length of its gradient does not depend on the
    distance, which matches the scaling of Chung et al.

    Args:
        denoiser: differentiable D(x; sigma); a `LearnedVarianceDenoiser` also sets the variance of
            the added noise.
        x: noisy image at `sigmas[0]`, (B, …); not an inference tensor.
        sigmas: falling noise levels, (S + 1,).
        distance: function from x0_hat (B, …) to its distance from the constraint, ().
        zeta: step size.
        noise: source of the noise added after each step, except a step to 0.
        of_vp: whether to apply the gradient step to the variance-preserving x_t = sqrt(abar_t) x,
            as Chung et al. (Algorithm 1) and Xu et al. (2024) do: the gradient with respect to x_t
            moves x_{t-1}. In terms of x, this divides zeta by sqrt(abar_t abar_{t-1}).
        condition: keyword arguments of the denoiser.

    Raises:
        ValueError: gradients are disabled.
    """
    if not torch.is_grad_enabled():
        raise ValueError("a constraint needs gradients: call it under torch.enable_grad()")
    for sigma, sigma_next in pairwise(sigmas):
        x = x.detach().requires_grad_()
        estimate = denoiser(x, sigma, **condition)
        x0, v = estimate, None
        if estimate.shape[1] == 2 * x.shape[1]:
            x0, v = estimate.chunk(2, dim=1)
        (gradient,) = torch.autograd.grad(distance(x0), x)
        step = (
            zeta * ((1 + sigma**2) * (1 + sigma_next**2)).sqrt()
            if of_vp
            else sigma.new_tensor(zeta)
        )
        with torch.no_grad():
            x = ancestral_step(x, x0, sigma, sigma_next, noise, v=v) - like(x, step) * gradient
    return x.detach()
