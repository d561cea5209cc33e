"""The perceptual distance as a training loss."""

import logging
from itertools import cycle

from torch import Tensor

from diffcodec.metrics.networks.lpips import Lpips
from diffcodec.metrics.networks.st_lpips import ShiftTolerantLpips

log = logging.getLogger(__name__)

LOSSES = ("vgg", "st-alex", "st-vgg")
FALLBACK = "st-vgg"


class PerceptualLoss:
    """LPIPS with VGG16 (Zhang et al., 2018) or ST-LPIPS (Ghildyal & Liu, 2022), as a loss.

    It is not a module: its weights are not trained or saved with a codec.

    Args:
        choice: `vgg` (LPIPS, with torchvision's weights), `st-alex` or `st-vgg` (ST-LPIPS, with
            weights from an installed package), or several joined by `+`, which alternate from call
            to call. None selects `vgg` if its weights are available, else `st-vgg`, and logs the
            choice.
        wanted_by: setting that requests the loss, for messages.
        vgg_weights: source of torchvision's VGG16, see `diffcodec.weights`; None reads the torch
            hub cache or downloads the weights.

    Attributes:
        name: the selected loss.

    Raises:
        ValueError: the choice is unknown, or its weights cannot be loaded.
    """

    def __init__(
        self, choice: str | None = None, *, wanted_by: str, vgg_weights: str | None = None
    ) -> None:
        check_choice(choice)
        if choice is None:
            choice = _available(vgg_weights)
            log.info("%s trains with the perceptual loss %s", wanted_by, choice)
        self.name = choice
        try:
            self._turns = cycle([_build(name, vgg_weights) for name in choice.split("+")])
        except (ImportError, ValueError) as error:
            raise ValueError(
                f"{wanted_by} needs the perceptual loss {choice!r}: {error}; choose from "
                f"{LOSSES} with perceptual=…, or pass vgg_weights=FILE"
            ) from error

    def __call__(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Mean distance of images (B, 3, H, W) in [-1, 1], a scalar."""
        network = next(self._turns).to(x.device)
        return network.distance(x_hat, x).mean()


def check_choice(choice: str | None) -> None:
    """Check the name of a perceptual loss.

    Raises:
        ValueError: the name is unknown.
    """
    for name in [] if choice is None else choice.split("+"):
        if name not in LOSSES:
            raise ValueError(
                f"unknown perceptual loss {name!r}, choose from {LOSSES}, or several joined by '+'"
            )


def _available(vgg_weights: str | None) -> str:
    """`vgg` if its weights are given or can be loaded, else `FALLBACK`."""
    if vgg_weights is not None:
        return "vgg"
    try:
        _build("vgg", None)
    except (ImportError, ValueError) as error:
        log.info("%s", error)
        return FALLBACK
    return "vgg"


def _build(name: str, vgg_weights: str | None) -> Lpips | ShiftTolerantLpips:
    if name == "vgg":
        return Lpips("vgg", vgg_weights)
    return ShiftTolerantLpips(name.removeprefix("st-"))
