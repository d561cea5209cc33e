"""Feature similarity with colour (Zhang et al., 2011), by phase congruency and gradients."""

from diffcodec.metrics.from_pyiqa import pyiqa_metric

METRIC = pyiqa_metric(
    "fsim",
    "FSIM",
    kind="distortion",
    order=12,
    variant="with colour",
    min_side=16,
)
