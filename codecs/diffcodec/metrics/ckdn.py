"""CKDN (Zheng et al., ICCV 2021): a learned metric that also accepts degraded references."""

from diffcodec.metrics.from_pyiqa import pyiqa_metric

METRIC = pyiqa_metric(
    "ckdn",
    "CKDN",
    kind="perception",
    order=5,
    needs="CKDN's network",
    min_side=32,
)
