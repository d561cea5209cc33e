"""MUSIQ (Ke et al., ICCV 2021): no-reference opinion score by a transformer."""

from diffcodec.metrics.from_pyiqa import pyiqa_metric

METRIC = pyiqa_metric(
    "musiq",
    "MUSIQ",
    kind="perception",
    order=6,
    variant="KonIQ-10k",
    needs="MUSIQ's network",
    min_side=32,
)
