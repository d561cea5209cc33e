"""Networks of a fixed size, or that look at the whole image, on images of any size.

They see overlapping tiles, whose results are averaged. Weights fall linearly from a tile's centre
to its border, so that no pixel changes its owner all at once.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from diffcodec.diffusion.denoiser import Denoiser

OVERLAP = 0.25


class TiledDenoiser:
    """A denoiser on overlapping squares whose estimates of x0 are averaged, at every call.

    A sampler sees one image and one estimate of it: what neighbouring tiles disagree on is settled
    at each noise level, not in the finished picture. Images no larger than a square go whole.

    Args:
        denoiser: D(x; sigma, **condition) on squares. Along a side that is shorter, a tile is as
            long as the side.
        window: their side.
        overlap: by how much neighbours overlap at least, as a share of the window in (0, 1).
        multiple: tiles begin at multiples of it; the window is a multiple.
        spatial: names of conditions (B, C, h, w) that lie on the image or on a grid that is coarser
            by a whole number, a divisor of `multiple`: a tile is handed its part of them. All
            others are handed on as they are.

    Raises:
        ValueError: the window has no pixel or is no multiple, or the overlap is not in (0, 1).
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
        """Images (B, …, H, W) -> x0_hat; sides over the window are multiples of `multiple`."""
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
    """The average of what overlapping tiles give, (B, C, H up / down, W up / down).

    Args:
        of_tile: rows and columns of the input -> the result for that part.
        size: H and W of the input.
        window: side of the tiles; a tile is as long as the side where that is shorter.
        overlap, multiple: as of `TiledDenoiser`.
        up, down: values of the result for a value of the input, and the other way round.
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
    """Where tiles begin along a side, evenly spread; one that is no longer than the window has one.

    Args:
        side: its length.
        window, overlap, multiple: as of `TiledDenoiser`.
    """
    if side <= window:
        return [0]
    stride = max(multiple, int(window * (1 - overlap)) // multiple * multiple)
    count = -(-(side - window) // stride) + 1
    return [multiple * round(i * (side - window) / (count - 1) / multiple) for i in range(count)]


def check_window(window: int, multiple: int = 1) -> None:
    """Refuse a window that tiles cannot have.

    Raises:
        ValueError: it is no multiple, or not positive.
    """
    if window < 1:
        raise ValueError(f"a window has at least 1 pixel a side, got {window}")
    if window % multiple:
        raise ValueError(f"window must be a multiple of {multiple}, got {window}")


def _weighted(
    side: int, window: int, overlap: float, multiple: int, up: int, down: int
) -> list[tuple[slice, slice, Tensor]]:
    """Of each tile along a side its place in the input, in the result, and its weights there.

    The weights of all tiles at a place sum to one.
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
    """The part of a condition that belongs to a tile of an image."""
    ratio = height // condition.shape[-2]
    return condition[
        ...,
        rows.start // ratio : rows.stop // ratio,
        columns.start // ratio : columns.stop // ratio,
    ]
