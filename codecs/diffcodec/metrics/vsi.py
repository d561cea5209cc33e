"""Visual saliency-induced index (Zhang et al., 2014)."""

from diffcodec.metrics.from_pyiqa import pyiqa_metric

METRIC = pyiqa_metric(
    "vsi",
    "VSI",
    kind="distortion",
    order=15,
    min_side=32,
)
