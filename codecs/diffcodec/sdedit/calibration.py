"""The images that `strength=auto` is found on."""

from collections.abc import Callable, Iterable

from torch import Tensor

from diffcodec.codec import Codec


class Calibration:
    """Images, and what a base codec makes of them.

    Args:
        load: -> images (1, 3, H, W) in [0, 1]; called once, where they are first needed.
    """

    def __init__(self, load: Callable[[], Iterable[Tensor]] | None) -> None:
        self._load = load
        self._images: list[Tensor] | None = None
        self._decoded: dict[str, list[Tensor]] = {}

    def pairs(self, base: Codec) -> list[tuple[Tensor, Tensor]]:
        """Each image and the base's picture of it at its selected point.

        Coded once per point: all presets share them, and VTM takes minutes.

        Raises:
            ValueError: there are no images.
        """
        if self._images is None:
            if self._load is None:
                raise ValueError(
                    "strength=auto needs calibration images or a file of strengths: give "
                    "codec.calibration, codec.strength=FILE or codec.strength=NUMBER"
                )
            self._images = list(self._load())
        images = [x.to(base.device) for x in self._images]
        if base.point.name not in self._decoded:
            self._decoded[base.point.name] = [base.decompress(base.compress(x)) for x in images]
        return list(zip(images, self._decoded[base.point.name], strict=True))
