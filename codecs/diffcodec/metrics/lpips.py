"""LPIPS with AlexNet, as most papers report it."""

from diffcodec.metrics.metric import ImageMeasure, ImageMetric


def build_lpips(net: str, weights: str | None) -> ImageMeasure:
    """LPIPS with a network, see `networks.lpips.Lpips`."""
    from diffcodec.metrics.networks.lpips import Lpips

    return Lpips(net, weights)


METRIC = ImageMetric(
    "lpips",
    "LPIPS",
    kind="perception",
    better="lower",
    order=1,
    headline=True,
    needs="torchvision's AlexNet",
    variant="alex",
    build=lambda weights: build_lpips("alex", weights),
)
