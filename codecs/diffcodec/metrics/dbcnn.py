"""DBCNN (Zhang et al., 2020): no-reference opinion score by two networks."""

from diffcodec.metrics.from_pyiqa import pyiqa_metric

METRIC = pyiqa_metric(
    "dbcnn",
    "DBCNN",
    kind="perception",
    order=7,
    variant="KonIQ-10k",
    needs="DBCNN's networks",
    min_side=64,
)
