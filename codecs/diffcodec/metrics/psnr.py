"""Peak signal-to-noise ratio (PSNR) of 8-bit RGB images."""

from typing import TYPE_CHECKING

from diffcodec.metrics.metric import ImageMetric

if TYPE_CHECKING:
    from torch import Tensor

_ROWS = 1024  # rows per chunk


def psnr(x: "Tensor", x_hat: "Tensor") -> float:
    """PSNR in dB of two uint8 images of the same shape; infinite if they are equal."""
    import torch

    # In chunks, because float64 takes eight times the memory of uint8. Sums of integers are exact.
    rows = zip(x.split(_ROWS, dim=-2), x_hat.split(_ROWS, dim=-2), strict=True)
    total = sum((a.double() - b.double()).square().sum() for a, b in rows)
    return float(10 * torch.log10(255.0**2 / (total / x.numel())))


METRIC = ImageMetric(
    "psnr-rgb",
    "PSNR",
    kind="distortion",
    unit="dB",
    better="higher",
    order=1,
    headline=True,
    build=lambda weights: psnr,
)
