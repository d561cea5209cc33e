"""Convolutional networks on parts of a large input, with the values that they have on the whole.

What a convolutional network makes of a place depends on a limited surrounding of it. Cut with that
much around it, a part gives exactly the sums that the whole gives there: there is nothing to blend,
and no seam. In floating point the same sums may be rounded otherwise in the last bit, as
convolution libraries choose their algorithms by shape; networks of integers
(`diffcodec.coding.integer_convolutions`) give the same bits. Networks that look at the whole image,
by attention or by statistics over it, are not of this kind: `diffcodec.diffusion.tiling` blends
them.
"""

from collections.abc import Callable
from itertools import pairwise, starmap

import torch
from torch import Tensor

Network = Callable[[Tensor], Tensor]
"""(B, C, H, W) -> (B, C', H up / down, W up / down)."""

_FIRST_PROBE = 8  # steps on either side


def by_tiles(network: Network, x: Tensor, *, window: int, up: int = 1, down: int = 1) -> Tensor:
    """As `in_tiles`, with margins as wide as the network sees, which is found by trying.

    Raises:
        ValueError: it sees farther than a window has room for.
    """
    if max(x.shape[-2:]) <= window:
        return network(x)
    most = widest_margin(window, down)
    margin = reach(network, x, most=most, step=down, up=up, down=down)
    return in_tiles(network, x, window=window, margin=margin, step=down, up=up, down=down)


def widest_margin(window: int, step: int = 1) -> int:
    """The widest margins, multiples of `step`, that leave something of a window between them."""
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
    """What a network makes of an input, by tiles where it is larger than a window.

    Args:
        network: of limited reach.
        x: (B, C, H, W).
        window: side of the largest tiles; every network call sees one, margins and all.
        margin: what is seen around a tile on each side and thrown away again: at least the
            network's `reach`, which makes the seams exact.
        step: where the input may be cut: at multiples of it, which window, margin, H and W are.
        up, down: values of the output for a value of the input, and the other way round; `step` is
            a multiple of `down`.

    Raises:
        ValueError: nothing of a window is left between its margins.
    """
    height, width = x.shape[-2:]
    if max(height, width) <= window:
        return network(x)
    if window <= 2 * margin:
        raise ValueError(f"a window of {window} leaves nothing between margins of {margin}")
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
    """Of each tile along a side: what its network sees, and what of that is the tile's own.

    All see as much, which is the least that as few tiles as possible need. With tiles of one size a
    network is planned or compiled once, and memory that one tile gave back fits the next.
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
    """The values of the output for values of the input, counted from an origin in the input."""
    return slice((place.start - origin) * up // down, (place.stop - origin) * up // down)


@torch.no_grad()
def reach(
    network: Network, x: Tensor, *, most: int, step: int = 1, up: int = 1, down: int = 1
) -> int:
    """How far a network sees: values of the input on each side that a value of the output needs.

    It is found by trying: where half of an input is not a number, neither is any output that
    depends on that half.

    Args:
        network: of convolutions and pointwise layers.
        x: an input, for the number of channels and the kind of numbers.
        most: where to give up, a multiple of `step`.
        step: where the input may be cut: at multiples of it; the reach is a multiple.
        up, down: as of `in_tiles`; `step` is a multiple of `down`.

    Raises:
        ValueError: it is more than `most`, or the network's values are not finite.
    """
    half = min(_FIRST_PROBE * step, most)
    while True:
        found = max(_affected(network, x, half, leading, up, down) for leading in (True, False))
        if found < half:
            margin = -(-found // step) * step
            if margin <= most:
                return margin
        if found >= half and half < most:
            half = min(2 * half, most)
            continue
        if not network(x.new_zeros(1, x.shape[1], half, half)).isfinite().all():
            raise ValueError("the weights are not finite, or the model has diverged")
        raise ValueError(f"the network sees farther than {most} values: use a larger window")


def _affected(network: Network, x: Tensor, half: int, leading: bool, up: int, down: int) -> int:
    """How far a wrong half reaches into the other, in values of the input."""
    probe = x.new_zeros(1, x.shape[1], 2 * half, 2 * half)
    wrong = slice(None, half) if leading else slice(half, None)
    probe[..., wrong, :] = torch.nan
    probe[..., wrong] = torch.nan
    right = network(probe).isfinite().all(dim=1)[0]
    # In the last row and column (or the first ones) nothing is wrong but what is being looked for.
    edge = -1 if leading else 0
    counts = (int(right[:, edge].sum()), int(right[edge].sum()))
    return half - min(counts) * down // up
