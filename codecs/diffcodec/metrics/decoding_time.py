"""Decoding time per image in wall-clock seconds, measured after device synchronization."""

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
