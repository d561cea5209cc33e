"""A codec that is fast, and whose latents are worth coding though it is not trained."""

import torch
from torch import Tensor

from diffcodec.cdc import CDC
from diffcodec.cdc.coder import means_then_scales
from diffcodec.coding.latent_coder import Code, LatentCoder


def build(prediction: str = "x0", **options) -> CDC:
    """CDC of width 4 in eval mode, the same weights every time."""
    torch.manual_seed(0)
    codec = CDC(prediction, width=4, **{"steps": 3, **options}).eval()
    with torch.no_grad():
        for stage in codec.compressor.g_a:
            stage.resample.weight.mul_(3)
        for conv in codec.compressor.h_a[::2]:
            conv.weight.mul_(4)
        for conv in codec.compressor.h_s[::2]:
            conv.weight.mul_(3)
    return codec


def encode_latents(coder: LatentCoder, y: Tensor, z: Tensor) -> tuple[list[bytes], Tensor]:
    """Sections of z and y, and the encoder's y_hat."""
    known: list[Tensor] = []

    def context_model(parameters: Tensor, code: Code) -> Tensor:
        known.append(means_then_scales(parameters, code))
        return known[0]

    return coder.encode(y, z, context_model), known[0]
