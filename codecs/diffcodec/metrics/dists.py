"""DISTS, of which publications have values; it is not measured here."""

from diffcodec.metrics.metric import Metric

METRIC = Metric("dists", "DISTS", kind="perception", better="lower", order=3)
