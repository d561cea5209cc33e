"""Conversion between tensors and the 8-bit images of the classical codecs."""

import warnings
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffcodec.codec import to_uint8
from diffcodec.coding.bitstream import BitstreamError


def to_pil(x: Tensor) -> Image.Image:
    """A tensor (3, H, W) in [0, 1] -> an RGB image, rounded once."""
    return Image.fromarray(to_uint8(x).permute(1, 2, 0).cpu().numpy())


def from_pil(image: Image.Image) -> Tensor:
    """An image -> an RGB tensor (3, H, W) in [0, 1]."""
    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return pixels.permute(2, 0, 1).float().div(255)


def read_untrusted(
    file: IO[bytes] | Path, format: str, height: int, width: int, *, name: str | None = None
) -> Tensor:
    """Read a file that may be malformed or hostile -> an RGB tensor (3, H, W) in [0, 1].

    Args:
        file: an open file or a path.
        format: Pillow's name of the format.
        height, width: expected size.
        name: name of the format in error messages; by default `format`.

    Raises:
        BitstreamError: the file cannot be read, or has another size.
    """
    name = name or format
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file, formats=[format]) as image:
                # Check before reading the pixels: a hostile file may claim any size.
                if image.size != (width, height):
                    raise BitstreamError(
                        f"the {name} file is {image.size[1]}x{image.size[0]}, "
                        f"but its header says {height}x{width}"
                    )
                return from_pil(image)
    except BitstreamError:
        raise
    # Pillow's decoders raise RuntimeError, SyntaxError, EOFError and others.
    except Exception as error:
        raise BitstreamError(f"not a readable {name} file: {error}") from error
