"""Kernel distance on a fixed random embedding; rewards any texture, see docs/measuring.md."""

from diffcodec.metrics.fd_random import build_random
from diffcodec.metrics.kid import kernel_distance
from diffcodec.metrics.metric import SetMetric

METRIC = SetMetric(
    "kd_random",
    "KD-random",
    kind="perception",
    better="lower",
    order=21,
    default=False,
    embedding="random",
    build=build_random,
    distance=kernel_distance,
)
