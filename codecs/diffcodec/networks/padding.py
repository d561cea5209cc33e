"""Padding images to a size that a network takes."""

from torch import Tensor
from torch.nn import functional as F


def pad_to_multiple(x: Tensor, multiple: int, *, min_side: int = 0) -> Tensor:
    """Repeat the right and lower border of images up to multiples of so many pixels.

    The picture stays in the upper left corner: `[..., :height, :width]` takes the padding away.

    Args:
        x: images (B, C, H, W).
        multiple: of which both sides become multiples.
        min_side: to which a shorter side is filled up; itself a multiple, or 0.
    """
    height, width = x.shape[-2:]
    down = max(-height % multiple, min_side - height)
    right = max(-width % multiple, min_side - width)
    if not (down or right):
        return x  # a large image needs no copy
    return F.pad(x, (0, right, 0, down), mode="replicate")


def pad_around(x: Tensor, multiple: int) -> Tensor:
    """Repeat the border of images on all sides alike, up to multiples of so many pixels.

    An odd row or column goes below or to the right, as with CompressAI's `compute_padding`.
    `crop_center` takes the padding away.

    Args:
        x: images (B, C, H, W).
        multiple: of which both sides become multiples.
    """
    down, right = (-side % multiple for side in x.shape[-2:])
    borders = (right // 2, right - right // 2, down // 2, down - down // 2)
    if not any(borders):
        return x
    return F.pad(x, borders, mode="replicate")


def crop_center(x: Tensor, height: int, width: int) -> Tensor:
    """Inverse of `pad_around`: images (B, C, H, W) -> (B, C, height, width)."""
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]
