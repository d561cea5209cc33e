"""Seconds that decoding an image takes, the device synchronised around the clock."""

from diffcodec.metrics.metric import CodingMetric

METRIC = CodingMetric(
    "decoding_time",
    "decoding time",
    kind="time",
    column="dec (s)",
    unit="s",
    order=2,
    read=lambda coding: coding.decoding_seconds,
)
