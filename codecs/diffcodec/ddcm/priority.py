"""Priority maps: weights of pixels that the encoder alone knows (Vaisman et al. 2026, Sec. 3.4)."""

from pathlib import Path, PurePath

import torch
from torch import Tensor
from torch.nn import functional as F

from diffcodec.networks.padding import pad_to_multiple


def read_map(folder: str | Path, name: str, size: tuple[int, int]) -> Tensor:
    """The map of an image, an 8-bit greyscale picture `NAME.png` in a folder.

    Args:
        folder: of the maps.
        name: of the image; its own folder and suffix do not count.
        size: its height and width.

    Returns:
        Weights (1, 1, H, W) in [0, 1]; those of a pixel count as a share of the largest.

    Raises:
        ValueError: there is no such picture, or it has another size.
    """
    import numpy as np
    from PIL import Image

    path = Path(folder) / f"{PurePath(name).stem}.png"
    if not path.is_file():
        raise ValueError(f"no priority map {path}")
    with Image.open(path) as picture:
        weights = torch.from_numpy(np.asarray(picture.convert("L")).copy()).float() / 255
    if weights.shape != size:
        raise ValueError(f"{path} has {tuple(weights.shape)} pixels, the image has {size}")
    return weights[None, None]


def weights_of_latents(weights: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Weights of pixels (1, 1, H, W) -> their means for each latent, (1, 1, h, w).

    Args:
        weights: in [0, inf).
        stride: pixels of a latent along a side.
        size: h and w, of which those beyond the picture have weight 0.
    """
    means = F.avg_pool2d(pad_to_multiple(weights, stride), stride)
    return F.pad(means, (0, size[1] - means.shape[-1], 0, size[0] - means.shape[-2]))
