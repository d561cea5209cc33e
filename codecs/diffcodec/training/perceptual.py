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

    It is not a module: its weights are neither trained nor saved, and belong to no codec.

    Args:
        choice: `vgg` (LPIPS, torchvision's weights), `st-alex` or `st-vgg` (ST-LPIPS, whose weights
            are in an installed package), or several joined by `+`, which take turns from call to
            call. None is `vgg` where its weights can be had, else `st-vgg`; which one is logged.
        wanted_by: setting that asks for the loss, for messages.
        vgg_weights: torchvision's VGG16, a source of `diffcodec.weights`; None takes it from the
            torch hub cache or downloads it.

    Attributes:
        name: the choice that was made.

    Raises:
        ValueError: an unknown choice, or the weights of the chosen one cannot be had.
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
                f"{LOSSES} by codec.perceptual, or give codec.vgg_weights=FILE"
            ) from error

    def __call__(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Mean distance of images (B, 3, H, W) in [-1, 1], a scalar."""
        network = next(self._turns).to(x.device)
        return network.distance(x_hat, x).mean()


def check_choice(choice: str | None) -> None:
    """Check the name of a perceptual loss.

    Raises:
        ValueError: it is not among the choices.
    """
    for name in [] if choice is None else choice.split("+"):
        if name not in LOSSES:
            raise ValueError(
                f"unknown perceptual loss {name!r}, choose from {LOSSES}, or several joined by '+'"
            )


def _available(vgg_weights: str | None) -> str:
    """`vgg` where its weights can be had or are given, else the loss that is always there."""
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
