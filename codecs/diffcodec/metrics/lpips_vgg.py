"""LPIPS with VGG16, the network of the training losses; not measured by default."""

from diffcodec.metrics.lpips import build_lpips
from diffcodec.metrics.metric import ImageMetric

METRIC = ImageMetric(
    "lpips-vgg",
    "LPIPS (VGG)",
    kind="perception",
    better="lower",
    order=2,
    needs="torchvision's VGG16",
    default=False,
    build=lambda weights: build_lpips("vgg", weights),
)
