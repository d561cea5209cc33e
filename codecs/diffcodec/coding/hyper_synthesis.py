"""Hyper-synthesis as a decoder on any machine repeats it: exact where it chooses tables.

The scales of y choose its tables: a decoder must compute them bit for bit as the encoder did. Means
only shift what is coded, y - mean in the encoder and back in the decoder: where theirs differ in
the last bit, so does y_hat, and no symbol is lost. Unless a context model looks at y_hat, means are
therefore computed in float32, in a fifth of the time.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from diffcodec.coding.integer_convolutions import ExactConvolutions
from diffcodec.networks.tiles import Network

# Rounded to so many bits of a fraction, weights of CompressAI's networks are about as far off as
# activations, for which larger weights leave fewer bits.
WEIGHT_BITS = 17


def exact_synthesis(h_s: nn.Sequential) -> Network:
    """A hyper-synthesis all of which is exact: z_hat (1, C', h, w) -> (1, P, 4h, 4w), float64.

    Raises:
        ValueError: the weights are not finite or too large.
    """
    return ExactConvolutions(h_s, name="hyper-synthesis", weight_bits=WEIGHT_BITS)


class ScalesThenMeans:
    """A hyper-synthesis whose scales are exact and whose means are not.

    Args:
        h_s: its last convolution makes the scales, then the means.

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
    """A convolution on the CPU that makes half of the channels."""
    half: nn.Conv2d = copy.deepcopy(conv).cpu().float()
    half.out_channels //= 2
    rows = slice(None, half.out_channels) if first else slice(half.out_channels, None)
    assert half.bias is not None
    half.weight = nn.Parameter(half.weight[rows].detach().clone())
    half.bias = nn.Parameter(half.bias[rows].detach().clone())
    return half
