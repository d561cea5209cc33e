"""ST-LPIPS with AlexNet, the authors' choice, with weights from a Python package."""

from diffcodec.metrics.metric import ImageMeasure, ImageMetric


def build_st_lpips(net: str, weights: str | None) -> ImageMeasure:
    """Build `networks.st_lpips.ShiftTolerantLpips` with the given network."""
    from diffcodec.metrics.networks.st_lpips import ShiftTolerantLpips

    return ShiftTolerantLpips(net, weights)


METRIC = ImageMetric(
    "st_lpips",
    "ST-LPIPS",
    kind="perception",
    better="lower",
    order=3,
    headline=True,
    needs="the package stlpips_pytorch",
    variant="alex",
    build=lambda weights: build_st_lpips("alex", weights),
)
