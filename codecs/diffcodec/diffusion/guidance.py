"""Guidance: what moves a denoiser's estimate, or the sampler by its gradient."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diffcodec.diffusion.denoiser import Denoiser, like
from diffcodec.diffusion.sampler import Noise, ancestral_step


class ClassifierFreeGuidance:
    """D_null + scale (D - D_null), both in one batch (Ho & Salimans 2022; PerCo, Eq. 5).

    Written for the noise estimate, this holds for D as it stands: at one x and sigma the two
    differ by an affine map, and the weights sum to one.

    Args:
        denoiser: D(x; sigma, **condition).
        scale: 1 is the denoiser itself, 0 the unguided branch; at either, only one is evaluated.
        null: the conditions that the unguided branch has instead, each (B, …) or (1, …); all
            others, such as PerCo's spatial codes, are the same in both branches.
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

    The distance is a norm, not its square: its gradient keeps its length however close the
    constraint is, which is how Chung et al. scale theirs.

    Args:
        denoiser: D(x; sigma), through which gradients flow; a `LearnedVarianceDenoiser` says how
            much noise is added as well.
        x: the noisy image at `sigmas[0]`, (B, …), no inference tensor.
        sigmas: noise levels, (S + 1,) falling.
        distance: x0_hat (B, …) -> how far it is from the constraint, ().
        zeta: step size.
        noise: what is added after each step but one down to 0.
        of_vp: take the step where Chung et al. (Algorithm 1) and Xu et al. (2024) do, in the
            variance-preserving x_t = sqrt(abar_t) x: the gradient is by x_t and moves x_{t-1}.
            Seen from x, zeta is then divided by sqrt(abar_t abar_{t-1}).
        condition: handed to the denoiser.

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
