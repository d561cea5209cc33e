"""Fréchet distance on a fixed random embedding; rewards any texture, see docs/measuring.md."""

from typing import TYPE_CHECKING

from diffcodec.metrics.fid import frechet_distance
from diffcodec.metrics.metric import SetMetric

if TYPE_CHECKING:
    from torch import nn


def build_random(weights: str | None) -> "nn.Module":
    """Build `networks.features.RandomFeatures`.

    Raises:
        ValueError: weights are given; the embedding has fixed weights.
    """
    from diffcodec.metrics.networks.features import RandomFeatures

    if weights is not None:
        raise ValueError(f"the random embedding takes no weights, got {weights!r}")
    return RandomFeatures()


METRIC = SetMetric(
    "fd_random",
    "FD-random",
    kind="perception",
    better="lower",
    order=20,
    default=False,
    embedding="random",
    build=build_random,
    distance=frechet_distance,
)
