"""The latent codec: y is coded in four parts, each predicted from those before it.

latents, ELIC's latents -> g_a -> y -> h_a -> z -> factorized prior -> section z
h_s(z_hat), parts 0 … i - 1 -> context model -> scales and means of part i -> section y
y_hat -> g_s -> input of the U-Net;  y_hat -> auxiliary decoder -> term added to its estimate

A part contains one position of every 2x2 block. The position differs between the four quarters of
the channels.
"""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from torch import Tensor, nn

from diffcodec.coding.latent_coder import Code
from diffcodec.stablecodec.layers import (
    Analysis,
    Block,
    Chain,
    adapter,
    auxiliary_decoder,
    hyper_analysis,
    hyper_synthesis,
    synthesis,
)

# For each part, its position in a 2x2 block, 2 row + column, in each quarter of the channels.
_PLACES = ((0, 1, 2, 3), (3, 2, 1, 0), (2, 3, 0, 1), (1, 0, 3, 2))


class LatentCodec(nn.Module):
    """The networks between the autoencoder's latents and the input of the U-Net.

    Args:
        latent_channels: number of channels C of the autoencoder's latents.
        elic_M: number of channels of ELIC's latents.
        M: number of channels of y, a multiple of 16.
        widths: channels of the two stages of g_a, and in reverse order of the auxiliary decoder.

    Raises:
        ValueError: M is not a multiple of 16.
    """

    def __init__(self, latent_channels: int, elic_M: int, M: int, widths: Sequence[int]) -> None:
        if M % 16:
            raise ValueError(f"M must be a multiple of 16, got {M}")
        super().__init__()
        context = 3 * M
        self.g_a = Analysis(latent_channels, elic_M, M, widths)
        self.g_s = synthesis(M)
        self.h_a, self.h_s = hyper_analysis(M), hyper_synthesis(M)
        self.aux = auxiliary_decoder(latent_channels, M, widths)
        parts = range(len(_PLACES))
        self.adapter_in = nn.ModuleList(adapter(M, context) for _ in parts)
        self.g_c = Chain("block", *(Block(context) for _ in range(4)))
        self.adapter_out = nn.ModuleList(adapter(context, 2 * M) for _ in parts)
        middle = (2 * M + M) // 2
        self.LRP = nn.ModuleList(
            Chain("block", adapter(2 * M, middle), adapter(middle, M)) for _ in parts
        )
        self.entropy_bottleneck = EntropyBottleneck(M // 2)
        self.gaussian_conditional: Any = GaussianConditional(None)


class FourParts:
    """The context model, in float64 on the CPU, where differences between machines are negligible.

    Args:
        codec: network whose weights are copied.
    """

    def __init__(self, codec: LatentCodec) -> None:
        def exact(module: nn.Module) -> Any:
            return copy.deepcopy(module).cpu().double().requires_grad_(False)

        self.h_s = exact(codec.h_s)
        self._adapter_in, self._adapter_out = exact(codec.adapter_in), exact(codec.adapter_out)
        self._context, self._residual = exact(codec.g_c), exact(codec.LRP)

    def __call__(self, parameters: Tensor, code: Code) -> Tensor:
        """See `diffcodec.coding.latent_coder.ContextModel`; `parameters` are h_s(z_hat)."""
        base = parameters
        y_hat = torch.zeros_like(base)
        for i in range(len(_PLACES)):
            mask = part_mask(i, base)
            context = self._context(self._adapter_in[i](base))
            means, scales = self._adapter_out[i](context).chunk(2, dim=1)
            symbols = code(partial(squeezed, i), squeezed(i, scales), squeezed(i, means))
            part = mask * spread(i, symbols.to(means) + squeezed(i, means), mask)
            # Latent residual prediction: an estimate of the rounding error (Minnen & Singh, ICIP
            # 2020).
            part = part + 0.5 * torch.tanh(mask * self._residual[i](torch.cat([part, base], dim=1)))
            y_hat = y_hat + part
            base = base * (1 - mask) + part
        return y_hat.float()


def part_mask(i: int, like: Tensor) -> Tensor:
    """Mask of part i in y (1, C, H, W): 1 inside, 0 outside; C a multiple of 4, H and W even."""
    mask = torch.zeros_like(like)
    for quarter, place in zip(mask.chunk(4, dim=1), _PLACES[i], strict=True):
        quarter[..., place // 2 :: 2, place % 2 :: 2] = 1
    return mask


def squeezed(i: int, y: Tensor) -> Tensor:
    """Part i of y (1, C, H, W) -> (1, C, H / 2, W / 2)."""
    quarters = zip(y.chunk(4, dim=1), _PLACES[i], strict=True)
    return torch.cat([quarter[..., p // 2 :: 2, p % 2 :: 2] for quarter, p in quarters], dim=1)


def spread(i: int, part: Tensor, like: Tensor) -> Tensor:
    """Inverse of `squeezed`: part i in y (1, C, H, W), shaped as `like`, with 0 elsewhere."""
    y = torch.zeros_like(like)
    for quarter, place, own in zip(
        y.chunk(4, dim=1), _PLACES[i], part.chunk(4, dim=1), strict=True
    ):
        quarter[..., place // 2 :: 2, place % 2 :: 2] = own
    return y
