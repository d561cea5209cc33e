"""Convolutions as an entropy coder needs them: bit-exact everywhere.

The decoder must rebuild the encoder's probabilities to the last bit, or it loses the symbols from
there on. Floating-point convolutions do not give that: devices, thread counts, batch sizes and
memory formats add the same products in another order, and rounding the sums to a grid only makes a
difference rare. Sums of integers do not depend on their order, so the network is computed in
integers: weights are rounded to 2^-20 (or another step) and activations to a step chosen per layer
such that no partial sum, in any order, can leave the 2^53 integers that float64 holds exactly. The
integers are kept in float64 tensors, because that is where a CPU's convolutions are fast. What
happens between the convolutions (bias, leaky relu, rounding) is one correctly rounded operation per
element. Everything runs on the CPU, which suits the small networks that entropy coders have. What
comes out differs from the float32 network by about 1e-5, which changes the rate by nothing that
can be measured.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WEIGHT_BITS = 20  # of a weight's fraction, unless a network says otherwise
RANGE_BITS = 11  # activations are clamped to +-2^11
MAX_FRACTION_BITS = 20  # of an activation; more would gain nothing
MIN_FRACTION_BITS = 4
EXACT_BITS = 53  # integers that float64 holds
_GATHERED = 1 << 19  # doubles


@dataclass(frozen=True)
class _Layer:
    """A convolution of integers: inputs * 2^fraction_bits with weights * 2^weight_bits."""

    weight: Tensor
    bias: Tensor
    weight_bits: int
    fraction_bits: int
    stride: int
    padding: int
    output_padding: int
    transposed: bool
    upscale: int = 1  # of the pixel shuffle that follows
    slope: float = 1.0  # of the leaky relu that follows, 0 of a relu

    def __call__(self, x: Tensor) -> Tensor:
        bias = (self.bias * 2.0 ** (self.weight_bits + self.fraction_bits)).round()
        if self.transposed:
            return F.conv_transpose2d(
                x, self.weight, bias, self.stride, self.padding, self.output_padding
            )
        if self.padding:
            x = F.pad(x, (0, 0, self.padding, self.padding))
        # For doubles torch gathers the inputs of every sum before it adds them up. A few rows at a
        # time they stay in the cache, which saves up to half of the time.
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
    """A network of convolutions, computed in integers.

    Args:
        network: convolutions, plain or transposed, each possibly followed by a pixel shuffle and by
            a relu or leaky relu.
        name: what the network is, for messages.
        weight_bits: of a weight's fraction. Weights and activations share 52 bits: the larger sums
            of weights are, the fewer are left for the fraction of an activation.

    Raises:
        ValueError: the weights are not finite, or too large for exact arithmetic; or a layer is of
            another kind.
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
                    f"the {name} has a layer {type(module).__name__}: only Conv2d, "
                    "ConvTranspose2d, PixelShuffle, LeakyReLU and ReLU are computed in integers"
                )

    def __call__(self, x: Tensor) -> Tensor:
        """The network's output, exact float64 on the CPU, for an input (B, C, H, W) anywhere."""
        # Convolutions of doubles are faster with the channels last.
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
            f"the {name} has too large weights to be coded with: they sum to "
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
