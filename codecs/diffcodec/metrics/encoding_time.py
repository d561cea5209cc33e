"""Seconds that encoding an image takes, the device synchronised around the clock."""

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
