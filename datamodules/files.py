"""Reads image files of any kind as 8-bit RGB."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from itertools import islice
from pathlib import Path

from PIL import Image, ImageOps

from datamodules.samples import grey_to_8_bits, samples_of

SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg"}
    | {".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)


class ImageReadError(ValueError):
    """A file that is not a readable image; the message names it."""


def list_images(folder: Path, limit: int | None = None) -> list[Path]:
    """All image files below a folder, or the first `limit` of them, sorted by path.

    Hidden files and folders are ignored; links to folders are followed.

    Raises:
        ValueError: the folder does not exist, it links back to a parent folder, or a name is not
            UTF-8.
    """
    return list(islice(image_files(folder), limit))


def image_files(folder: Path) -> Iterator[Path]:
    """`list_images` as an iterator."""
    if not folder.is_dir():
        raise ValueError(f"no such folder: {folder}")
    return _image_files(folder, (folder.resolve(),))


def _image_files(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    # Unlike Path.rglob this follows links and can stop early in a set of millions of files.
    with os.scandir(folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        if entry.is_dir():
            target = path.resolve() if entry.is_symlink() else path
            if target in above:
                raise ValueError(f"{path} links back to {target}")
            yield from _image_files(path, (*above, target))
        elif path.suffix.lower() in SUFFIXES:
            check_name(path)
            yield path


def check_name(path: Path) -> None:
    """Check that a name can be written into the files and tables of a run.

    Raises:
        ValueError: it is not UTF-8, which Linux allows.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(f"the file name {os.fsencode(path)!r} is not UTF-8: rename it") from None


def read_rgb(path: Path) -> Image.Image:
    """Read an image as 8-bit RGB, upright; of an animation, the first frame.

    EXIF rotation is applied. Grey and palette images become RGB. Transparency is composed over
    white. 16-bit grey and floats in [0, 1] are scaled to 8 bits, also if 0 is white. Pillow
    converts CMYK and 16-bit colour (the latter loses its low byte). Colour profiles are ignored, as
    usual in codec comparisons.

    Raises:
        ImageReadError: the file is missing, truncated, not an image, larger than
            `PIL.Image.MAX_IMAGE_PIXELS`, or has values outside the range of an image.
    """
    with _opened(path, path) as image:
        return _to_rgb(image)


def decode_rgb(data: bytes, name: str) -> Image.Image:
    """`read_rgb` on the bytes of a file; the name is for messages.

    Raises:
        ImageReadError: as in `read_rgb`.
    """
    with _opened(BytesIO(data), name) as image:
        return _to_rgb(image)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels, upright, from the header only.

    Raises:
        ImageReadError: the file is missing, too large or not an image.
    """
    with _opened(path, path) as image:
        width, height = image.size
        # Orientations 5 to 8 swap the sides; Pillow already does it for TIFF files.
        swapped = image.format != "TIFF" and image.getexif().get(0x0112) in (5, 6, 7, 8)
        return (width, height) if swapped else (height, width)


@contextmanager
def _opened(file: Path | BytesIO, name: Path | str) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about unused metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                yield image
    # Pillow has no common error: broken files also end in RuntimeError, TypeError, struct.error, …
    except Exception as error:
        reason = str(error).replace(repr(file), "it") if isinstance(file, BytesIO) else error
        raise ImageReadError(f"cannot read image {name}: {reason}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    samples = samples_of(image)
    image.load()
    if samples.problem is not None:
        raise ValueError(samples.problem)
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        return grey_to_8_bits(image, samples)
    if image.has_transparency_data:
        if samples.scale > 1:
            image.info["transparency"] *= samples.scale
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
