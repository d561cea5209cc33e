"""Complex wavelet structural similarity (Sampat et al., 2009) of luma, robust to small shifts."""

from diffcodec.metrics.from_pyiqa import pyiqa_metric

METRIC = pyiqa_metric(
    "cw_ssim",
    "CW-SSIM",
    kind="distortion",
    order=11,
    min_side=64,
)
