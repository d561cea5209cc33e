"""LPIPS as a training loss."""

import warnings
from typing import Any

import torch
from torch import Tensor


class PerceptualLoss:
    """LPIPS with VGG16 features (Zhang et al., 2018), on images in [-1, 1].

    It is no module: its weights are neither trained, saved nor part of a codec.

    Args:
        wanted_by, without: the setting that asks for it, and that does without: for the error.

    Raises:
        ValueError: the package or the weights of VGG16 cannot be had.
    """

    def __init__(self, wanted_by: str, without: str) -> None:
        try:
            import lpips

            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # torchvision's old argument names
                self._network: Any = lpips.LPIPS(net="vgg", verbose=False)
        except (ImportError, OSError, RuntimeError) as error:
            raise ValueError(
                f"{wanted_by} needs LPIPS with torchvision's VGG16, and its weights could not be "
                f"loaded or downloaded ({error}): put them into {torch.hub.get_dir()}/checkpoints, "
                f"or train with {without}"
            ) from error
        self._network.eval().requires_grad_(False)

    def __call__(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Mean distance of images (B, 3, H, W) in [-1, 1], a scalar."""
        self._network.to(x.device)
        distance: Tensor = self._network(x_hat, x).mean()
        return distance
