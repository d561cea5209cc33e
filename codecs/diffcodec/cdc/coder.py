"""Entropy coding of CDC's latents: its scale table and its hyperprior's prediction of y."""

import math
from itertools import pairwise
from statistics import NormalDist

import torch
from torch import Tensor

from diffcodec.cdc.compressor import MIN_SCALE, Compressor, Latents
from diffcodec.coding.integer_convolutions import ExactConvolutions
from diffcodec.coding.latent_coder import Code, LatentCoder, whole

NUM_SCALES = 128
MAX_SCALE = 256.0
TAIL_MASS = 1e-9


def build_coder(compressor: Compressor) -> LatentCoder:
    """The coder of a compressor's latents, for the context model `means_then_scales`.

    Raises:
        ValueError: the weights of the hyper-synthesis are out of range for exact arithmetic.
    """
    from compressai.entropy_models import GaussianConditional

    return LatentCoder(
        compressor.entropy_bottleneck,
        GaussianConditional(None, scale_bound=MIN_SCALE, tail_mass=TAIL_MASS),
        ExactConvolutions(compressor.h_s, name="hyper-synthesis"),
        channels=compressor.h_s[-1].out_channels // 2,  # type: ignore[operator, arg-type]
        scales=torch.tensor(scale_table()),
        borders=_scale_borders(),
    )


def means_then_scales(parameters: Tensor, code: Code) -> Tensor:
    """A hyperprior without context model: all of y in one part; parameters: means, then scales."""
    means, scales = parameters.chunk(2, dim=1)
    return (code(whole, scales, means) + means).float()


def scale_table() -> list[float]:
    """The scales that y is coded with: a geometric sequence, rounded to be exact in binary."""
    ratio = (MAX_SCALE / MIN_SCALE) ** (1 / (NUM_SCALES - 1))
    return [round(MIN_SCALE * ratio**i * 2**16) / 2**16 for i in range(NUM_SCALES)]


def share_outside(latents: Latents) -> Tensor:
    """The fraction of y's symbols outside their tables, (); each costs an escape code."""
    index = torch.bucketize(
        latents.scales.detach().double(), _scale_borders().to(latents.scales.device)
    )
    centers = torch.tensor(_centers(scale_table()), device=latents.scales.device)[index]
    symbols = (latents.y_hat.detach() - latents.means.detach()).round()
    return (symbols.abs() > centers).float().mean()


def _scale_borders() -> Tensor:
    """Borders between the table's scales, (NUM_SCALES - 1,): their geometric means."""
    borders = [math.sqrt(a * b) for a, b in pairwise(scale_table())]
    return torch.tensor(borders, dtype=torch.float64)


def _centers(scales: list[float]) -> list[int]:
    """The largest symbol of each scale's table."""
    multiplier = -NormalDist().inv_cdf(TAIL_MASS / 2)
    return [math.ceil(scale * multiplier) for scale in scales]
