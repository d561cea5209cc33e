"""Multi-scale structural similarity of 8-bit RGB pictures."""

from typing import TYPE_CHECKING

from diffcodec.metrics.metric import ImageMetric

if TYPE_CHECKING:
    from torch import Tensor

MIN_SIDE = 161  # five scales of an 11-pixel window: (11 - 1) * 2^4 + 1


def ms_ssim(x: "Tensor", x_hat: "Tensor") -> float | None:
    """MS-SSIM (Wang et al., 2003) of two uint8 images (3, H, W); None under 161 pixels a side."""
    from pytorch_msssim import ms_ssim as score

    if min(x.shape[-2:]) < MIN_SIDE:
        return None
    return float(score(x[None].float(), x_hat[None].float(), data_range=255.0))


METRIC = ImageMetric(
    "ms-ssim-rgb",
    "MS-SSIM",
    kind="distortion",
    better="higher",
    order=2,
    headline=True,
    build=lambda weights: ms_ssim,
)
