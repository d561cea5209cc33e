"""Whether pictures that were made in tiles show where the tiles meet."""

import torch
from torch import Tensor

from diffcodec.diffusion.tiling import tile_starts


def seam_ratio(tiled: Tensor, whole: Tensor, window: int, multiple: int = 1) -> float:
    """How much more the difference of both pictures jumps at borders of tiles than on average.

    Args:
        tiled, whole: (1, 3, H, W), made with a window and without.
        window, multiple: of the tiles, in pixels.
    """
    jumps = (tiled - whole).diff(dim=-1).abs().mean((0, 1, 2))
    starts = tile_starts(whole.shape[-1], window, multiple=multiple)
    borders = torch.tensor([*starts[1:], *(start + window for start in starts[:-1])]) - 1
    return float(jumps[borders].max() / jumps.mean())
