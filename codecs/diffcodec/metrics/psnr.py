"""Peak signal-to-noise ratio of 8-bit RGB pictures."""

from typing import TYPE_CHECKING

from diffcodec.metrics.metric import ImageMetric

if TYPE_CHECKING:
    from torch import Tensor


def psnr(x: "Tensor", x_hat: "Tensor") -> float:
    """PSNR in dB of two uint8 images of one shape; infinite if they are equal."""
    import torch

    mse = (x.double() - x_hat.double()).square().mean()
    return float(10 * torch.log10(255.0**2 / mse))


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
