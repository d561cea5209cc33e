"""LPIPS as a training loss."""

from torch import Tensor

from diffcodec.metrics.networks.lpips import Lpips


class PerceptualLoss:
    """LPIPS with VGG16 features (Zhang et al., 2018), on images in [-1, 1].

    It is no module: its weights are neither trained, saved nor part of a codec.

    Args:
        wanted_by, without: the setting that asks for it, and that does without: for the error.
        weights: torchvision's VGG16, a source of `diffcodec.weights`; None takes it from the torch
            hub cache or downloads it.

    Raises:
        ValueError: the package or the weights of VGG16 cannot be had.
    """

    def __init__(self, wanted_by: str, without: str, weights: str | None = None) -> None:
        try:
            self._network = Lpips("vgg", weights).model
        except (ImportError, ValueError) as error:
            raise ValueError(
                f"{wanted_by} needs LPIPS, and there are {error}: give codec.vgg_weights=FILE, or "
                f"train with {without}"
            ) from error

    def __call__(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Mean distance of images (B, 3, H, W) in [-1, 1], a scalar."""
        self._network.to(x.device)
        distance: Tensor = self._network(x_hat, x).mean()
        return distance
