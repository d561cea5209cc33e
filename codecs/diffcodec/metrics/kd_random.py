"""Kernel distance on a fixed random embedding, where KID's network cannot be had."""

from diffcodec.metrics.fd_random import build_random
from diffcodec.metrics.kid import kernel_distance
from diffcodec.metrics.metric import SetMetric

METRIC = SetMetric(
    "kd_random",
    "KD-random",
    kind="perception",
    better="lower",
    order=21,
    stands_in_for="kid",
    embedding="random",
    build=build_random,
    distance=kernel_distance,
)
