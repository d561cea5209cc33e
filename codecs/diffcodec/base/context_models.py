"""Context models of CompressAI's networks, which predict y from its parts coded before."""

from functools import partial
from itertools import product
from operator import itemgetter
from typing import Any

import torch
from compressai.latent_codecs import ChannelGroupsLatentCodec, CheckerboardLatentCodec
from compressai.models.google import JointAutoregressiveHierarchicalPriors
from torch import Tensor
from torch.nn import functional as F

from diffcodec.coding.latent_coder import Code


class RasterScan:
    """Autoregressive context model: positions above and to the left (Minnen et al., NeurIPS 2018).

    Args:
        model: `mbt2018` or `cheng2020_*`, which share this context model.
    """

    def __init__(self, model: JointAutoregressiveHierarchicalPriors) -> None:
        self._model = model

    def __call__(self, parameters: Tensor, code: Code) -> Tensor:
        """See `diffcodec.coding.latent_coder.ContextModel`."""
        conv, entropy_parameters = self._model.context_prediction, self._model.entropy_parameters
        weight = conv.weight * conv.mask
        parameters = parameters.to(weight)
        height, width = parameters.shape[-2:]
        size = weight.shape[-1]
        around = size // 2
        y_hat = parameters.new_zeros(1, weight.shape[1], height + 2 * around, width + 2 * around)
        for row, column in product(range(height), range(width)):
            seen = y_hat[..., row : row + size, column : column + size]
            here = (..., slice(row, row + 1), slice(column, column + 1))
            context = F.conv2d(seen, weight, conv.bias)
            out = entropy_parameters(torch.cat([parameters[here], context], dim=1))
            scales, means = out.chunk(2, dim=1)
            symbols = code(itemgetter(here), scales, means)
            seen[..., around : around + 1, around : around + 1] = symbols.to(means) + means
        return y_hat[..., around:-around, around:-around]


class ChannelGroups:
    """Space-channel context model: channel groups, each in two passes (He et al., CVPR 2022).

    Each group is predicted from the groups before it. The first pass codes half of the positions,
    in a checkerboard pattern. The second pass codes the other half, with the first as its context.

    Args:
        groups: ELIC's `latent_codec["y"]`.
    """

    def __init__(self, groups: ChannelGroupsLatentCodec) -> None:
        self._groups = groups

    def __call__(self, parameters: Tensor, code: Code) -> Tensor:
        """See `diffcodec.coding.latent_coder.ContextModel`."""
        groups = self._groups
        parameters = parameters.to(next(groups.parameters()))
        y_hat: list[Tensor] = []
        for k, (first, count) in enumerate(zip(groups.groups_acc, groups.groups, strict=False)):
            side = parameters
            if k > 0:
                context = groups.channel_context[f"y{k}"](groups.merge_y(*y_hat))
                side = groups.merge_params(context, parameters)
            checkerboard: Any = groups.latent_codec[f"y{k}"]
            y_hat.append(_in_two_passes(checkerboard, slice(first, first + count), side, code))
        return torch.cat(y_hat, dim=1)


def _in_two_passes(
    checkerboard: CheckerboardLatentCodec, channels: slice, side: Tensor, code: Code
) -> Tensor:
    """Code the channels of a group with their side information -> their y_hat."""
    sides = checkerboard.unembed(side)
    halves = sides.new_zeros(2, 1, channels.stop - channels.start, *sides.shape[-2:])
    for i in range(2):
        context = checkerboard.unembed(checkerboard.context_prediction(checkerboard.embed(halves)))[
            i
        ]
        if i == 0:  # no position of the group is coded yet
            context = torch.zeros_like(context)
        out = checkerboard.entropy_parameters(checkerboard.merge(context, sides[i]))
        gaussian: Any = checkerboard.latent_codec["y"]
        named = dict(zip(gaussian.chunks, out.chunk(2, dim=1), strict=True))
        half = partial(_half, checkerboard, channels, i)
        symbols = code(half, named["scales"], named["means"])
        halves[i] = symbols.to(halves) + named["means"]
    return checkerboard.embed(halves)


def _half(checkerboard: CheckerboardLatentCodec, channels: slice, i: int, y: Tensor) -> Tensor:
    return checkerboard.unembed(y[:, channels])[i]
