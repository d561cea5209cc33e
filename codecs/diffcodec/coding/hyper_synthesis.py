"""Hyper-synthesis for entropy coding, with bit-exact scales on every machine.

The scales of y select the entropy tables, so encoder and decoder must compute the same bits. The
means only shift the symbols: the encoder codes y - mean, and the decoder adds the mean. If their
means differ in the last bit, y_hat differs in the last bit, and all symbols still decode. Means are
therefore computed in float32, which takes a fifth of the time, unless a context model uses y_hat.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from diffcodec.coding.integer_convolutions import ExactConvolutions
from diffcodec.networks.tiles import Network

# Fraction bits of a weight. Weights and activations share a budget of bits; with this number, their
# rounding errors in CompressAI's networks are about equal.
WEIGHT_BITS = 17


def exact_synthesis(h_s: nn.Sequential) -> Network:
    """An exact hyper-synthesis: z_hat (1, C', h, w) -> parameters (1, P, 4h, 4w), float64.

    Raises:
        ValueError: the weights are not finite or too large.
    """
    return ExactConvolutions(h_s, name="hyper-synthesis", weight_bits=WEIGHT_BITS)


class ScalesThenMeans:
    """A hyper-synthesis with exact scales and float32 means.

    Args:
        h_s: network whose last convolution outputs the scales, then the means.

    Raises:
        ValueError: the weights are not finite or too large.
    """

    def __init__(self, h_s: nn.Sequential) -> None:
        *body, last = h_s
        scales, means = (_half(last, first) for first in (True, False))
        self._body = exact_synthesis(nn.Sequential(*body))
        self._scales = exact_synthesis(nn.Sequential(scales))
        self._means = means.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, z_hat: Tensor) -> Tensor:
        """z_hat (1, C', h, w) -> scales and means (1, 2C, 4h, 4w), float64 on the CPU."""
        hidden = self._body(z_hat)
        return torch.cat([self._scales(hidden), self._means(hidden.float())], dim=1)


def _half(conv: Any, first: bool) -> nn.Conv2d:
    """The convolution of the first or second half of the output channels, on the CPU."""
    half: nn.Conv2d = copy.deepcopy(conv).cpu().float()
    half.out_channels //= 2
    rows = slice(None, half.out_channels) if first else slice(half.out_channels, None)
    assert half.bias is not None
    half.weight = nn.Parameter(half.weight[rows].detach().clone())
    half.bias = nn.Parameter(half.bias[rows].detach().clone())
    return half
