"""Convolutions in integer arithmetic, which are bit-exact on every machine.

A decoder must reproduce the encoder's probabilities to the last bit, or all following symbols are
wrong. Floating-point convolutions cannot guarantee that: the order of their sums depends on device,
number of threads, batch size and memory format. Rounding the sums to a grid only makes differences
rare.

Sums of integers do not depend on their order. Weights are therefore rounded to 2^-20 (or another
step), and activations to a step per layer. This step is chosen such that no partial sum, in any
order, leaves the range of integers that float64 represents exactly, 2^53. The integers are stored
in float64 tensors, for which CPUs have fast convolutions. The operations between convolutions
(bias, leaky ReLU, rounding) are one correctly rounded operation per element.

Everything runs on the CPU, which suits the small networks of entropy models. The output differs
from that of the float32 network by about 1e-5, which has no measurable effect on the rate.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHT_BITS = 20  # default number of fraction bits of a weight
RANGE_BITS = 11  # activations are clamped to +-2^11
MAX_FRACTION_BITS = 20  # of an activation; more would have no benefit
MIN_FRACTION_BITS = 4
EXACT_BITS = 53  # float64 represents integers up to 2^53 exactly
_GATHERED = 1 << 19  # float64 values that a convolution gathers in one call


@dataclass(frozen=True)
class _Layer:
    """An integer convolution of inputs * 2^fraction_bits with weights * 2^weight_bits."""

    weight: Tensor
    bias: Tensor
    weight_bits: int
    fraction_bits: int
    stride: int
    padding: int
    output_padding: int
    transposed: bool
    upscale: int = 1  # of the following pixel shuffle
    slope: float = 1.0  # of the following leaky ReLU; 0 for a ReLU

    def __call__(self, x: Tensor) -> Tensor:
        bias = (self.bias * 2.0 ** (self.weight_bits + self.fraction_bits)).round()
        if self.transposed:
            return F.conv_transpose2d(
                x, self.weight, bias, self.stride, self.padding, self.output_padding
            )
        if self.padding:
            x = F.pad(x, (0, 0, self.padding, self.padding))
        # For float64, torch gathers the inputs of all sums (im2col) before multiplying. With few
        # rows per call they stay in the cache, which saves up to half of the time.
        *_, kernel = self.weight.shape
        height = (x.shape[2] - kernel) // self.stride + 1
        at_once = max(1, _GATHERED // (x.shape[3] * self.weight[0].numel()))
        strips = []
        for first in range(0, height, at_once):
            last = min(first + at_once, height) - 1
            rows = x[:, :, first * self.stride : last * self.stride + kernel]
            strips.append(F.conv2d(rows, self.weight, bias, self.stride, (0, self.padding)))
        return torch.cat(strips, dim=2)


class ExactConvolutions:
    """A convolutional network in integer arithmetic.

    Args:
        network: convolutions or transposed convolutions, each optionally followed by a pixel
            shuffle and by a ReLU or leaky ReLU.
        name: name of the network for error messages.
        weight_bits: number of fraction bits of a weight. Weights and activations share 52 bits:
            larger sums of weights leave fewer fraction bits for activations.

    Raises:
        ValueError: the weights are not finite or too large for exact arithmetic, or a layer has
            another type.
    """

    def __init__(
        self, network: nn.Sequential, *, name: str, weight_bits: int = WEIGHT_BITS
    ) -> None:
        self._layers: list[_Layer] = []
        for _, module in network.named_modules(remove_duplicate=False):
            if isinstance(module, nn.Sequential):
                continue  # its layers follow
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                self._layers.append(_integer_layer(module, name, weight_bits))
            elif isinstance(module, nn.PixelShuffle):
                self._layers[-1] = replace(self._layers[-1], upscale=module.upscale_factor)
            elif isinstance(module, nn.LeakyReLU):
                self._layers[-1] = replace(self._layers[-1], slope=module.negative_slope)
            elif isinstance(module, nn.ReLU):
                self._layers[-1] = replace(self._layers[-1], slope=0.0)
            else:
                raise ValueError(
                    f"unsupported layer {type(module).__name__} in the {name}: only Conv2d, "
                    "ConvTranspose2d, PixelShuffle, LeakyReLU and ReLU are computed in integers"
                )

    def __call__(self, x: Tensor) -> Tensor:
        """Run the network on (B, C, H, W) on any device -> exact output, float64 on the CPU."""
        # Float64 convolutions are faster in channels-last format.
        x = x.detach().cpu().double().contiguous(memory_format=torch.channels_last)
        for layer in self._layers:
            limit = 2.0 ** (RANGE_BITS + layer.fraction_bits)
            x = (x * 2.0**layer.fraction_bits).round_().clamp_(-limit, limit)
            x = layer(x).mul_(2.0 ** -(layer.weight_bits + layer.fraction_bits))
            if layer.upscale > 1:
                x = F.pixel_shuffle(x, layer.upscale)
            if layer.slope != 1:
                x = F.leaky_relu(x, layer.slope, inplace=True)
        return x


def _integer_layer(conv: nn.Conv2d | nn.ConvTranspose2d, name: str, weight_bits: int) -> _Layer:
    transposed = isinstance(conv, nn.ConvTranspose2d)
    assert conv.bias is not None
    weight = (conv.weight.detach().cpu().double() * 2.0**weight_bits).round()
    bias = conv.bias.detach().cpu().double()
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise ValueError(f"the {name} has weights that are not finite")
    # |partial sum| <= sum |weight| * |activation| + |bias|, in units of both fractions
    gain = weight.abs().sum((0, 2, 3) if transposed else (1, 2, 3)).max()
    reach = int(gain) << RANGE_BITS
    reach += int(bias.abs().max().ceil()) << weight_bits
    fraction_bits = min(EXACT_BITS - 1 - reach.bit_length(), MAX_FRACTION_BITS)
    if fraction_bits < MIN_FRACTION_BITS:
        raise ValueError(
            f"the weights of the {name} are too large for integer coding: they sum to "
            f"{gain.item() * 2.0**-weight_bits:g} per channel"
        )
    return _Layer(
        weight=weight.contiguous(memory_format=torch.channels_last),
        bias=bias,
        weight_bits=weight_bits,
        fraction_bits=fraction_bits,
        stride=conv.stride[0],
        padding=int(conv.padding[0]),
        output_padding=conv.output_padding[0],
        transposed=transposed,
    )
