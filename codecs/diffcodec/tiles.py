"""Convolutional networks on parts of a large input, with the values that they have on the whole.

What a convolutional network makes of a place depends on a limited surrounding of it. Cut with that
much around it, a part gives exactly the sums that the whole gives there: there is nothing to blend,
and no seam. In floating point the same sums may be rounded otherwise in the last bit, as
convolution libraries choose their algorithms by shape; networks of integers (`diffcodec.exact`)
give the same bits. Networks that look at the whole image, by attention or by statistics over it,
are not of this kind: `diffcodec.diffusion.tiling` blends them.
"""

from collections.abc import Callable

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
    return in_tiles(network, x, window=window, margin=margin, up=up, down=down)


def widest_margin(window: int, step: int = 1) -> int:
    """The widest margins, multiples of `step`, that leave something of a window between them."""
    return (window - 1) // (2 * step) * step


def in_tiles(
    network: Network, x: Tensor, *, window: int, margin: int, up: int = 1, down: int = 1
) -> Tensor:
    """What a network makes of an input, by tiles where it is larger than a window.

    Args:
        network: of limited reach.
        x: (B, C, H, W).
        window: side of the tiles, of which every network call sees one with its margins.
        margin: what is seen around a tile on each side and thrown away again: at least the
            network's `reach`, which makes the seams exact.
        up, down: values of the output for a value of the input, and the other way round; window,
            margin, H and W are multiples of `down`.

    Raises:
        ValueError: nothing of a window is left between its margins.
    """
    height, width = x.shape[-2:]
    if max(height, width) <= window:
        return network(x)
    stride = window - 2 * margin
    if stride < 1:
        raise ValueError(f"a window of {window} leaves nothing between margins of {margin}")
    out: Tensor | None = None
    for top in range(0, height, stride):
        for left in range(0, width, stride):
            bottom, right = min(top + stride, height), min(left + stride, width)
            above, before = max(0, top - margin), max(0, left - margin)
            part = network(x[..., above : bottom + margin, before : right + margin])
            if out is None:
                out = part.new_empty(*part.shape[:-2], height * up // down, width * up // down)
            rows = slice(top * up // down, bottom * up // down)
            columns = slice(left * up // down, right * up // down)
            out[..., rows, columns] = part[
                ...,
                (top - above) * up // down : (bottom - above) * up // down,
                (left - before) * up // down : (right - before) * up // down,
            ]
    assert out is not None
    return out


@torch.no_grad()
def reach(
    network: Network, x: Tensor, *, most: int, step: int = 1, up: int = 1, down: int = 1
) -> int:
    """How far a network sees: values of the input on each side that a value of the output needs.

    It is found by trying: where half of an input is not a number, neither is any output that
    depends on that half.

    Args:
        network: of convolutions and what goes on from place to place.
        x: an input, for the number of channels and the kind of numbers.
        most: where to give up, a multiple of `step`.
        step: where the input may be cut: at multiples of it, of which the reach is one, too.
        up, down: as of `in_tiles`; `step` is a multiple of `down`.

    Raises:
        ValueError: it is more than `most`.
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
