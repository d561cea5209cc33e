"""Conversion between tensors and the 8-bit images of the classical codecs."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffcodec.codec import to_uint8


def to_pil(x: Tensor) -> Image.Image:
    """A tensor (3, H, W) in [0, 1] -> an RGB image, rounded once."""
    return Image.fromarray(to_uint8(x).permute(1, 2, 0).cpu().numpy())


def from_pil(image: Image.Image) -> Tensor:
    """An image -> an RGB tensor (3, H, W) in [0, 1]."""
    pixels = torch.from_numpy(np.array(image.convert("RGB")))
    return pixels.permute(2, 0, 1).float().div(255)
