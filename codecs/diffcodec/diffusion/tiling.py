"""Tiling, for networks with a fixed input size or a global receptive field on larger images.

Networks process overlapping tiles, whose results are averaged. The weights fall linearly from a
tile's centre to its border, which avoids seams.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffcodec.diffusion.denoiser import Denoiser

OVERLAP = 0.25


class TiledDenoiser:
    """A denoiser on overlapping square tiles, whose estimates of x0 are averaged at every call.

    The sampler works on one image, so that differences between neighbouring tiles are averaged at
    each noise level instead of in the final image. Images up to the window size are processed
    whole.

    Args:
        denoiser: D(x; sigma, **condition) for tiles. If a side of the image is shorter than the
            window, the tiles have the length of that side.
        window: side of the tiles.
        overlap: minimum overlap of neighbouring tiles as a share of the window, in (0, 1).
        multiple: tiles start at multiples of it; the window must be a multiple.
        spatial: names of conditions (B, C, h, w) that are cropped to each tile. Their grid is that
            of the image, or coarser by an integer factor that divides `multiple`. All other
            conditions are passed unchanged.

    Raises:
        ValueError: the window is not a positive multiple, or the overlap is not in (0, 1).
    """

    def __init__(
        self,
        denoiser: Denoiser,
        window: int,
        overlap: float = OVERLAP,
        *,
        multiple: int = 1,
        spatial: Sequence[str] = (),
    ) -> None:
        check_window(window, multiple)
        if not 0 < overlap < 1:
            raise ValueError(f"the overlap must be in (0, 1), got {overlap}")
        self.denoiser = denoiser
        self.window = window
        self.overlap = overlap
        self.multiple = multiple
        self.spatial = frozenset(spatial)

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        """Images (B, …, H, W) -> x0_hat; sides above the window must be multiples of `multiple`."""
        height, width = x.shape[-2:]
        if max(height, width) <= self.window:
            return self.denoiser(x, sigma, **condition)

        def of_tile(rows: slice, columns: slice) -> Tensor:
            own = {
                name: _part(value, height, rows, columns) if name in self.spatial else value
                for name, value in condition.items()
            }
            return self.denoiser(x[..., rows, columns], sigma, **own)

        return blend_tiles(
            of_tile, (height, width), self.window, overlap=self.overlap, multiple=self.multiple
        )


def blend_tiles(
    of_tile: Callable[[slice, slice], Tensor],
    size: tuple[int, int],
    window: int,
    *,
    overlap: float = OVERLAP,
    multiple: int = 1,
    up: int = 1,
    down: int = 1,
) -> Tensor:
    """Average the results of overlapping tiles, (B, C, H up / down, W up / down).

    Args:
        of_tile: function from rows and columns of the input to the result for this tile.
        size: H and W of the input.
        window: side of the tiles; if a side of the input is shorter, tiles have its length.
        overlap, multiple: see `TiledDenoiser`.
        up, down: upsampling and downsampling factor from the input to the result.
    """
    height, width = size
    if max(size) <= window:
        return of_tile(slice(0, height), slice(0, width))
    total: Tensor | None = None
    vertical, horizontal = (_weighted(side, window, overlap, multiple, up, down) for side in size)
    for rows, rows_out, weight_rows in vertical:
        for columns, columns_out, weight_columns in horizontal:
            part = of_tile(rows, columns)
            if total is None:
                total = part.new_zeros(*part.shape[:-2], *(side * up // down for side in size))
            weight = weight_rows[:, None] * weight_columns
            total[..., rows_out, columns_out] += weight.to(part) * part
    assert total is not None
    return total


def tile_starts(
    side: int, window: int, *, overlap: float = OVERLAP, multiple: int = 1
) -> list[int]:
    """Evenly spaced start positions of the tiles along a side; a side up to the window has one.

    Args:
        side: length of the side.
        window, overlap, multiple: see `TiledDenoiser`.
    """
    if side <= window:
        return [0]
    stride = max(multiple, int(window * (1 - overlap)) // multiple * multiple)
    count = -(-(side - window) // stride) + 1
    return [multiple * round(i * (side - window) / (count - 1) / multiple) for i in range(count)]


def check_window(window: int, multiple: int = 1) -> None:
    """Check the size of a window.

    Raises:
        ValueError: it is not positive, or not a multiple.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1 pixel, got {window}")
    if window % multiple:
        raise ValueError(f"window must be a multiple of {multiple}, got {window}")


def _weighted(
    side: int, window: int, overlap: float, multiple: int, up: int, down: int
) -> list[tuple[slice, slice, Tensor]]:
    """The slices of each tile along a side in the input and in the result, and its weights.

    The weights of all tiles sum to one at each position of the result.
    """
    length = min(side, window)
    starts = tile_starts(side, window, overlap=overlap, multiple=multiple)
    rising = torch.arange(1, length * up // down + 1, dtype=torch.float32)
    profile = torch.minimum(rising, rising.flip(0))
    places = [
        (slice(start, start + length), slice(start * up // down, (start + length) * up // down))
        for start in starts
    ]
    total = torch.zeros(side * up // down)
    for _, out in places:
        total[out] += profile
    return [(place, out, profile / total[out]) for place, out in places]


def _part(condition: Tensor, height: int, rows: slice, columns: slice) -> Tensor:
    """Crop a condition to a tile of the image."""
    ratio = height // condition.shape[-2]
    return condition[
        ...,
        rows.start // ratio : rows.stop // ratio,
        columns.start // ratio : columns.stop // ratio,
    ]
