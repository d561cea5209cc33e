"""Normalized Laplacian pyramid distance (Laparra et al., 2016) of luma."""

from diffcodec.metrics.from_pyiqa import pyiqa_metric

METRIC = pyiqa_metric(
    "nlpd",
    "NLPD",
    kind="distortion",
    order=14,
    better="lower",
    min_side=32,
)
