"""Exact tiling of convolutional networks: tiles with margins give the values of the whole input.

An output of a convolutional network depends on a limited receptive field. A tile with margins of
that size therefore gives the same sums as the whole input, without blending and without seams. In
floating point, the sums may differ in the last bit, because convolution libraries choose their
algorithms by shape. Integer networks (`diffcodec.coding.integer_convolutions`) give the same bits.

Networks with global attention or global statistics cannot be tiled exactly.
`diffcodec.diffusion.tiling` blends their tiles.
"""

from collections.abc import Callable
from itertools import pairwise, starmap

import torch
from torch import Tensor

Network = Callable[[Tensor], Tensor]
"""(B, C, H, W) -> (B, C', H up / down, W up / down)."""

_FIRST_PROBE = 8  # half the size of the first probe, in steps


def by_tiles(network: Network, x: Tensor, *, window: int, up: int = 1, down: int = 1) -> Tensor:
    """Run `in_tiles` with margins as wide as the network's measured receptive field.

    Args:
        network: convolutional network.
        x: input (B, C, H, W).
        window: side of the largest tiles, margins included.
        up, down: upsampling and downsampling factors of the network.

    Raises:
        ValueError: the receptive field is too large for the window.
    """
    if max(x.shape[-2:]) <= window:
        return network(x)
    most = widest_margin(window, down)
    margin = reach(network, x, most=most, step=down, up=up, down=down)
    return in_tiles(network, x, window=window, margin=margin, step=down, up=up, down=down)


def widest_margin(window: int, step: int = 1) -> int:
    """The widest margins, in multiples of `step`, that leave a window a nonempty center."""
    return (window - 1) // (2 * step) * step


def in_tiles(
    network: Network,
    x: Tensor,
    *,
    window: int,
    margin: int,
    step: int = 1,
    up: int = 1,
    down: int = 1,
) -> Tensor:
    """Run a network on an input, in tiles if the input is larger than a window.

    Args:
        network: network with a limited receptive field.
        x: input (B, C, H, W).
        window: side of the largest tiles, margins included.
        margin: width of the margin on each side of a tile, which is cut off the output. Exact
            results need at least the network's `reach`.
        step: granularity of the tiles, which begin at multiples of it; window, margin, H and W are
            multiples.
        up, down: upsampling and downsampling factors of the network; `step` is a multiple of
            `down`.

    Raises:
        ValueError: the margins fill the whole window.
    """
    height, width = x.shape[-2:]
    if max(height, width) <= window:
        return network(x)
    if window <= 2 * margin:
        raise ValueError(f"window must be above twice the margin of {margin}, got {window}")
    out: Tensor | None = None
    vertical, horizontal = (_along(side, window, margin, step) for side in (height, width))
    for rows, own_rows in vertical:
        for columns, own_columns in horizontal:
            part = network(x[..., rows, columns])
            if out is None:
                out = part.new_empty(*part.shape[:-2], height * up // down, width * up // down)
            inner_rows = _scaled(own_rows, up, down, rows.start)
            inner_columns = _scaled(own_columns, up, down, columns.start)
            inner = part[..., inner_rows, inner_columns]
            out[..., _scaled(own_rows, up, down), _scaled(own_columns, up, down)] = inner
    assert out is not None
    return out


def _along(side: int, window: int, margin: int, step: int) -> list[tuple[slice, slice]]:
    """The tiles along a side: for each, its range in the input with margins and without.

    The number of tiles is the smallest possible, and all tiles have the same size with margins, the
    smallest possible for that number. Networks are thus planned or compiled once, and the memory of
    one tile can be reused for the next.
    """
    if side <= window:
        return [(slice(0, side), slice(0, side))]
    count = -(-(side - 2 * margin) // (window - 2 * margin))
    size = -(-(side + 2 * margin * (count - 1)) // (count * step)) * step
    starts = [*range(0, side - size, size - 2 * margin), side - size]
    bounds = [0, *(start + margin for start in starts[1:]), side]
    seen = (slice(start, start + size) for start in starts)
    return list(zip(seen, starmap(slice, pairwise(bounds)), strict=True))


def _scaled(place: slice, up: int, down: int, origin: int = 0) -> slice:
    """The range in the output of a range in the input, relative to an origin in the input."""
    return slice((place.start - origin) * up // down, (place.stop - origin) * up // down)


@torch.no_grad()
def reach(
    network: Network, x: Tensor, *, most: int, step: int = 1, up: int = 1, down: int = 1
) -> int:
    """The reach of a network: the input values on each side on which an output value depends.

    It is measured with NaN in half of an input: all outputs that depend on that half are NaN.

    Args:
        network: network of convolutions and pointwise layers.
        x: an input, from which the number of channels, dtype and device are taken.
        most: the largest reach to accept, a multiple of `step`.
        step: number of which the reach is a multiple; see `in_tiles`.
        up, down: see `in_tiles`; `step` is a multiple of `down`.

    Raises:
        ValueError: the reach is larger than `most`, or the network's values are not finite.
    """
    largest = most + step  # a reach of `most` is seen only in a larger half
    half = min(_FIRST_PROBE * step, largest)
    while True:
        found = max(_affected(network, x, half, leading, up, down) for leading in (True, False))
        if found < half:
            margin = -(-found // step) * step
            if margin <= most:
                return margin
        if found >= half and half < largest:
            half = min(2 * half, largest)
            continue
        if not network(x.new_zeros(1, x.shape[1], half, half)).isfinite().all():
            raise ValueError("the weights are not finite, or the model has diverged")
        raise ValueError(
            f"the network's receptive field reaches beyond {most} values: use a larger window"
        )


def _affected(network: Network, x: Tensor, half: int, leading: bool, up: int, down: int) -> int:
    """How far the NaN of one half extend into the outputs of the other, in values of the input."""
    probe = x.new_zeros(1, x.shape[1], 2 * half, 2 * half)
    wrong = slice(None, half) if leading else slice(half, None)
    probe[..., wrong, :] = torch.nan
    probe[..., wrong] = torch.nan
    right = network(probe).isfinite().all(dim=1)[0]
    # Along the last row and column (or the first ones), NaN come from one axis only.
    edge = -1 if leading else 0
    counts = (int(right[:, edge].sum()), int(right[edge].sum()))
    return half - min(counts) * down // up
