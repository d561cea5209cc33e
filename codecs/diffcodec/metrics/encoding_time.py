"""Encoding time per image in wall-clock seconds, measured after device synchronization."""

from diffcodec.metrics.metric import CodingMetric

METRIC = CodingMetric(
    "encoding_time",
    "encoding time",
    kind="time",
    column="enc (s)",
    unit="s",
    order=1,
    read=lambda coding: coding.encoding_seconds,
)
