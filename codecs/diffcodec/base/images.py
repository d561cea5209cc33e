"""Tensors <-> the 8-bit pictures that the classical codecs take."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffcodec.codec import to_uint8


def to_pil(x: Tensor) -> Image.Image:
    """An image (3, H, W) in [0, 1] -> RGB picture, rounded once."""
    return Image.fromarray(to_uint8(x).permute(1, 2, 0).cpu().numpy())


def from_pil(image: Image.Image) -> Tensor:
    """RGB picture -> image (3, H, W) in [0, 1]."""
    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return pixels.permute(2, 0, 1).float().div(255)
