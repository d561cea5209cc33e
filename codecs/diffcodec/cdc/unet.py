"""The denoising U-Net of CDC: six resolutions, with context maps at the first four.

x_t, time --> down 1 .. down 6 --> middle --> up 5 .. up 1 --> 7x7 --> x0 or eps
              ^ contexts 1 .. 4
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffcodec.cdc.layers import (
    BlockConv2d,
    ChannelNorm,
    ContextTerms,
    LinearAttention,
    ResBlock,
    downsample,
    upsample,
)


class Stage(nn.Module):
    """Two residual blocks and attention at one resolution; `resample` then changes the resolution.

    The caller applies `resample`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        time_channels: int,
        resample: nn.Module | None,
        context_channels: int = 0,
        kernel_size: int = 3,
    ) -> None:
        super().__init__()
        self.res1 = ResBlock(
            in_channels,
            out_channels,
            time_channels=time_channels,
            context_channels=context_channels,
            kernel_size=kernel_size,
        )
        self.res2 = ResBlock(out_channels, out_channels, time_channels=time_channels)
        self.attention = LinearAttention(out_channels)
        self.resample = resample

    def forward(self, x: Tensor, time: Tensor, terms: ContextTerms | None = None) -> Tensor:
        return self.attention(self.res2(self.res1(x, time, terms), time))


class UNet(nn.Module):
    """(x_t, time; contexts) -> the prediction of the parameterization.

    Args:
        width: number of channels of the first resolution, and size of the time embedding.
        multipliers: channels of each resolution as multiples of `width`.
        context_channels: channels of the context maps, finest first; at most one map per
            resolution.
        channels: number of channels of x_t.
        out_channels: number of output channels; null selects `channels`.
        kernel_size: kernel size of the first and the last convolution.
    """

    def __init__(
        self,
        width: int,
        multipliers: Sequence[int],
        context_channels: Sequence[int],
        *,
        channels: int = 3,
        out_channels: int | None = None,
        kernel_size: int = 7,
    ) -> None:
        super().__init__()
        dims = [channels, *(width * m for m in multipliers)]
        contexts = [*context_channels, *[0] * (len(multipliers) - len(context_channels))]
        last = len(multipliers) - 1
        self.time1 = nn.Linear(1, 4 * width)
        self.time2 = nn.Linear(4 * width, width)
        self.downs = nn.ModuleList(
            Stage(
                dims[i],
                dims[i + 1],
                time_channels=width,
                context_channels=contexts[i],
                kernel_size=kernel_size if i == 0 else 3,
                resample=downsample(dims[i + 1]) if i < last else None,
            )
            for i in range(len(multipliers))
        )
        self.mid1 = ResBlock(dims[-1], dims[-1], time_channels=width)
        self.mid_attention = LinearAttention(dims[-1])
        self.mid2 = ResBlock(dims[-1], dims[-1], time_channels=width)
        self.ups = nn.ModuleList(
            Stage(
                2 * dims[i + 1],
                dims[i],
                time_channels=width,
                resample=upsample(dims[i], dims[i]),
            )
            for i in range(last, 0, -1)
        )
        self.norm_out = ChannelNorm(width)
        out_channels = channels if out_channels is None else out_channels
        conv = BlockConv2d if out_channels < 8 else nn.Conv2d
        self.conv_out = conv(width, out_channels, kernel_size, padding=kernel_size // 2)

    def context_terms(self, contexts: Sequence[Tensor]) -> list[ContextTerms]:
        """Context maps -> the terms that they add to the first stages at every time.

        Args:
            contexts: context maps (B, C_i, H / 2^i, W / 2^i), finest first.
        """
        return [
            stage.res1.context_terms(context)  # type: ignore[union-attr, operator]
            for stage, context in zip(self.downs, contexts, strict=False)
        ]

    def forward(self, x: Tensor, time: Tensor, terms: Sequence[ContextTerms]) -> Tensor:
        """Run the network.

        Args:
            x: noisy input, (B, channels, H, W); H and W are multiples of 2^(resolutions - 1).
            time: encoding of the noise level, () or (B,): t / N for `CDC`, ln(sigma) / 4 for
                `ResidualCDC`.
            terms: result of `context_terms`.
        """
        t = self.time2(F.gelu(self.time1(time.reshape(-1, 1))))
        skips = []
        for i, stage in enumerate(self.downs):
            x = stage(x, t, terms[i] if i < len(terms) else None)
            skips.append(x)
            if stage.resample is not None:
                x = stage.resample(x)  # type: ignore[operator]
        x = self.mid2(self.mid_attention(self.mid1(x, t)), t)
        for stage in self.ups:
            x = stage.resample(stage(torch.cat([x, skips.pop()], dim=1), t))  # type: ignore[operator]
        return self.conv_out(self.norm_out(x))
