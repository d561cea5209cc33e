"""LPIPS with AlexNet, the variant that most papers report."""

from diffcodec.metrics.metric import ImageMeasure, ImageMetric


def build_lpips(net: str, weights: str | None) -> ImageMeasure:
    """Build `networks.lpips.Lpips` with the given network."""
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
