"""Guidance: wrappers of a denoiser that move its estimate."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffcodec.diffusion.denoiser import Denoiser


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
