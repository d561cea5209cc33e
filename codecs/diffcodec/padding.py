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
    return F.pad(x, (0, right, 0, down), mode="replicate")
