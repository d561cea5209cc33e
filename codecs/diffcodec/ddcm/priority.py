"""Priority maps: pixel weights that only the encoder uses (Vaisman et al. 2026, Sec. 3.4)."""

from pathlib import Path, PurePath

import torch
from torch import Tensor
from torch.nn import functional as F

from diffcodec.networks.padding import pad_to_multiple


def read_map(folder: str | Path, name: str, size: tuple[int, int]) -> Tensor:
    """Read the priority map of an image: an 8-bit grayscale image `NAME.png` in a folder.

    Args:
        folder: folder of the maps.
        name: name of the image; its folder and suffix are ignored.
        size: height and width of the image.

    Returns:
        Weights (1, 1, H, W) in [0, 1].

    Raises:
        ValueError: the file does not exist or has another size.
    """
    import numpy as np
    from PIL import Image

    path = Path(folder) / f"{PurePath(name).stem}.png"
    if not path.is_file():
        raise ValueError(f"priority map {path} does not exist")
    with Image.open(path) as picture:
        weights = torch.from_numpy(np.asarray(picture.convert("L")).copy()).float() / 255
    if weights.shape != size:
        raise ValueError(f"{path} has {tuple(weights.shape)} pixels, the image has {size}")
    return weights[None, None]


def weights_of_latents(weights: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Pixel weights (1, 1, H, W) -> their mean over each latent's pixels, (1, 1, h, w).

    Args:
        weights: pixel weights in [0, inf).
        stride: pixels per latent, along a side.
        size: h and w; latents beyond the image have weight 0.
    """
    means = F.avg_pool2d(pad_to_multiple(weights, stride), stride)
    return F.pad(means, (0, size[1] - means.shape[-1], 0, size[0] - means.shape[-2]))
