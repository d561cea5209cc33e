"""Gradient magnitude similarity deviation (Xue et al., 2014) of luma."""

from diffcodec.metrics.from_pyiqa import pyiqa_metric

METRIC = pyiqa_metric(
    "gmsd",
    "GMSD",
    kind="distortion",
    order=13,
    better="lower",
    min_side=8,
)
