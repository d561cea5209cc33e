"""Peak signal-to-noise ratio of 8-bit RGB pictures."""

from typing import TYPE_CHECKING

from diffcodec.metrics.metric import ImageMetric

if TYPE_CHECKING:
    from torch import Tensor

_ROWS = 1024  # at a time


def psnr(x: "Tensor", x_hat: "Tensor") -> float:
    """PSNR in dB of two uint8 images of one shape; infinite if they are equal."""
    import torch

    # By rows: in float64 a large picture would be eight times its size. Sums of integers are exact.
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
