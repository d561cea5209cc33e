"""DISTS (Ding et al., 2020): structure and texture similarity of VGG features."""

from diffcodec.metrics.from_pyiqa import pyiqa_metric

METRIC = pyiqa_metric(
    "dists",
    "DISTS",
    kind="perception",
    order=3,
    better="lower",
    needs="DISTS's weights and torchvision's VGG16",
    min_side=32,
)
