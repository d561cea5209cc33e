"""Padding of images to sizes that a network accepts."""

from torch import Tensor
from torch.nn import functional as F


def pad_to_multiple(x: Tensor, multiple: int, *, min_side: int = 0) -> Tensor:
    """Pad images at the right and bottom to multiples of `multiple`, repeating the border.

    `[..., :height, :width]` removes the padding.

    Args:
        x: images (B, C, H, W).
        multiple: number of pixels of which both sides become multiples.
        min_side: minimum length of a side after padding; a multiple of `multiple`, or 0.
    """
    height, width = x.shape[-2:]
    down = max(-height % multiple, min_side - height)
    right = max(-width % multiple, min_side - width)
    if not (down or right):
        return x  # a large image needs no copy
    return F.pad(x, (0, right, 0, down), mode="replicate")


def pad_around(x: Tensor, multiple: int) -> Tensor:
    """Pad images equally on all sides to multiples of `multiple`, repeating the border.

    An odd row or column is added at the bottom or right, as in CompressAI's `compute_padding`.
    `crop_center` removes the padding.

    Args:
        x: images (B, C, H, W).
        multiple: number of pixels of which both sides become multiples.
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
