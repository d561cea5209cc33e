"""Calibration images for the strength rules, and the errors that `strength=auto` doubles."""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from diffcodec.codec import Codec
from diffcodec.points import Point
from diffcodec.sdedit.strength import AUTO

if TYPE_CHECKING:
    from rich.progress import Progress


class Calibration:
    """Calibration images and a base codec's reconstructions of them.

    Args:
        load: function that returns images (1, 3, H, W) in [0, 1]; called once, on first use.
        reference: codec whose error is used in place of the base's.
        rule: value of `strength` that needs the images, for error messages.

    Attributes:
        reference: the reference codec, or None.
    """

    def __init__(
        self,
        load: Callable[[], Iterable[Tensor]] | None,
        reference: Codec | None = None,
        *,
        rule: str = AUTO,
    ) -> None:
        self._load = load
        self._rule = rule
        self.reference = None if reference is None else reference.eval()
        self._images: list[Tensor] | None = None
        self._decoded: dict[str, list[tuple[Tensor, float]]] = {}
        self._references: list[list[tuple[float, float]]] = []

    def num_images(self, base: Codec) -> int:
        """Load the images and return their number."""
        return len(self._all(base))

    def pairs(self, base: Codec, point: Point) -> list[tuple[Tensor, Tensor]]:
        """Each image and its reconstruction by the base at one operating point.

        Cached per point, because all presets share them and VTM takes minutes.

        Raises:
            ValueError: there are no images.
        """
        images = self._all(base)
        return [(x, x_hat) for x, (x_hat, _) in zip(images, self._coded(base, point), strict=True)]

    def errors(self, base: Codec, point: Point) -> list[float]:
        """The squared error of each image, which `strength=auto` doubles.

        Without a reference, it is the base's error at the operating point. With a reference, it is
        the reference's error at the base's rate for that image: log error is interpolated linearly
        in log rate between the reference's points and is constant beyond them.

        Raises:
            ValueError: there are no images.
        """
        if self.reference is None:
            return [mse(x, x_hat) for x, x_hat in self.pairs(base, point)]
        images = self._all(base)
        if not self._references:
            self._references = [_curve(self.reference.to(base.device), x) for x in images]
        found = []
        for curve, (_, rate) in zip(self._references, self._coded(base, point), strict=True):
            rates, errors = (np.log(values) for values in zip(*curve, strict=True))
            found.append(math.exp(np.interp(math.log(rate), rates, errors)))
        return found

    def _all(self, base: Codec) -> list[Tensor]:
        if self._images is None:
            if self._load is None:
                raise ValueError(
                    f"strength={self._rule} needs calibration images or a strengths file: pass "
                    "codec.calibration, codec.strength=FILE or codec.strength=NUMBER"
                )
            self._images = list(self._load())
        return [x.to(base.device) for x in self._images]

    def _coded(self, base: Codec, point: Point) -> list[tuple[Tensor, float]]:
        """The base's reconstruction of each image at a point, and its bits per pixel."""
        if point.name not in self._decoded:
            self._decoded[point.name] = [_code(base, x, point) for x in self._all(base)]
        return self._decoded[point.name]


def progress() -> "Progress":
    """A progress bar that only the first process shows."""
    from rich.progress import Progress

    return Progress(transient=True, disable=getattr(rank_zero_only, "rank", 0) != 0)


def mse(x: Tensor, x_hat: Tensor) -> float:
    """Mean squared error of two images."""
    return float((x - x_hat).square().mean())


def _code(codec: Codec, x: Tensor, point: Point) -> tuple[Tensor, float]:
    (stream,) = codec.compress(x, point)
    return codec.decompress([stream], point), 8 * len(stream) / (x.shape[-2] * x.shape[-1])


def _curve(codec: Codec, x: Tensor) -> list[tuple[float, float]]:
    """(bits per pixel, squared error) of an image at all points of a codec, sorted by rate."""
    measured = []
    for point in codec.points:
        x_hat, rate = _code(codec, x, point)
        measured.append((rate, mse(x, x_hat)))
    return sorted(measured)
