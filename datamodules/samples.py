"""The meaning of the samples of an image file: which value is white or transparent."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile

# TIFF 6.0: tags and their values.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _UNSIGNED, _FLOAT = 0, 1, 3


@dataclass(frozen=True)
class Samples:
    """How a file stores its samples, beyond Pillow's modes.

    Attributes:
        white: value of full intensity, for greys of more than 8 bits.
        inverted: whether 0 is white, for greys of more than 8 bits; Pillow inverts 8-bit greys.
        scale: Pillow's factor on greys of 1, 2 or 4 bits, which it does not apply to their
            transparent value.
        problem: why the samples have no defined range, or None.
    """

    white: float = 65535
    inverted: bool = False
    scale: int = 1
    problem: str | None = None


def samples_of(image: Image.Image) -> Samples:
    """The samples of an opened image that is not yet loaded."""
    if image.format == "TIFF":
        return _samples_of_tiff(image)
    if image.format == "PNG" and isinstance(image, ImageFile.ImageFile) and image.tile:
        rawmode = image.tile[0].args
        scale = {"L;2": 85, "L;4": 17}.get(str(rawmode), 1)
        if rawmode == "RGB;16B" and "transparency" in image.info:
            # Pillow keeps only the high bytes, which many colours share.
            return Samples(
                problem="16-bit colour with a transparent value is read with 8 bits only"
            )
        return Samples(scale=scale)
    return Samples(1 if image.mode == "F" else 65535)


def _samples_of_tiff(image: Image.Image) -> Samples:
    tags = image.tag_v2  # type: ignore[attr-defined]
    bits = max(tags.get(_BITS, (1,)))
    sample_format = tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0]
    if sample_format not in (_UNSIGNED, _FLOAT) or (sample_format == _UNSIGNED and bits > 16):
        low, high = np.asarray(image).min(), np.asarray(image).max()
        kind = "unsigned" if sample_format == _UNSIGNED else "signed"
        return Samples(
            problem=f"{bits}-bit {kind} integers have no defined white, got [{low}, {high}]: "
            "convert them to 8 or 16 bits unsigned"
        )
    white = 1 if sample_format == _FLOAT else 2**bits - 1
    return Samples(white, tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO)


def grey_to_8_bits(image: Image.Image, samples: Samples) -> Image.Image:
    """Grey of more than 8 bits -> 8-bit RGB, rounded; the transparent value becomes white.

    Raises:
        ValueError: a value is out of range.
    """
    # Pillow's own conversion of these modes clips at 255 instead of scaling.
    values = np.asarray(image, dtype=np.float64)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= samples.white):
        raise ValueError(f"grey values must be in [0, {samples.white:g}], got [{low:g}, {high:g}]")
    shown = samples.white - values if samples.inverted else values
    grey = np.rint(shown * (255.0 / samples.white)).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")
