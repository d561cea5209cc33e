"""Structural similarity (Wang et al., 2004) of luma, with a Gaussian window of 11 pixels."""

from diffcodec.metrics.from_pyiqa import pyiqa_metric

METRIC = pyiqa_metric(
    "ssim",
    "SSIM",
    kind="distortion",
    order=10,
    variant="luma of BT.601",
    min_side=11,
)
