"""ST-LPIPS with VGG16; not measured by default."""

from diffcodec.metrics.metric import ImageMetric
from diffcodec.metrics.st_lpips import build_st_lpips

METRIC = ImageMetric(
    "st_lpips_vgg",
    "ST-LPIPS (VGG)",
    kind="perception",
    better="lower",
    order=4,
    needs="the package stlpips_pytorch",
    variant="vgg",
    default=False,
    build=lambda weights: build_st_lpips("vgg", weights),
)
