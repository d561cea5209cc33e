"""The small prior's network: a U-Net of residual 3x3 blocks on pixel-unshuffled images.

It has no attention and no statistics over the image. Its receptive field is that of the
convolutions, so it behaves on whole photographs as on the training crops.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffcodec.weights.configuration import Configured
from diffcodec.weights.loading import load_checkpoint, load_strict, state_dict_of

PATCH = 2  # pixel-unshuffle factor; convolutions at full resolution would dominate CPU time
FREQUENCIES = 16


class Block(nn.Module):
    """Residual block of two convolutions, with a scale and shift by the noise level in between."""

    def __init__(self, in_channels: int, out_channels: int, embedding: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.affine = nn.Linear(embedding, 2 * out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = in_channels == out_channels
        self.skip: nn.Module = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        nn.init.zeros_(self.conv2.weight)  # the residual branch starts at 0
        nn.init.zeros_(self.affine.weight)
        nn.init.zeros_(self.affine.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(_normalised(x), inplace=True))
        scale, shift = self.affine(embedding)[..., None, None].chunk(2, dim=1)
        h = self.conv2(F.silu(_normalised(h) * (1 + scale) + shift, inplace=True))
        out: Tensor = self.skip(x) + h
        return out


class SmallUNet(Configured, nn.Module):
    """Network F(x, c_noise) of a denoiser with EDM's preconditioning; untrained, it outputs 0.

    Args:
        channels: number of channels of each stage. The first stage has half the image's resolution,
            and each further stage half of the previous one's.
        layers: number of residual blocks per stage, in the encoder and in the decoder.
        weights: null (random), or a source of `diffcodec.weights`.

    Raises:
        ValueError: a size is below 1, or the weights cannot be loaded or do not fit.
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 104),
        layers: int = 2,
        *,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if not channels or min(channels) < 1 or layers < 1:
            raise ValueError(
                f"channels and layers must be at least 1, got {list(channels)} and {layers}"
            )
        embedding = 2 * channels[0]
        self.embed = nn.Sequential(
            nn.Linear(2 * FREQUENCIES, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.conv_in = nn.Conv2d(3 * PATCH**2, channels[0], 3, padding=1)

        def blocks(first: int, width: int) -> nn.ModuleList:
            widths = [first, *[width] * layers]
            return nn.ModuleList(Block(a, b, embedding) for a, b in pairwise(widths))

        self.down = nn.ModuleList(blocks(c, c) for c in channels)
        self.shrink = nn.ModuleList(nn.Conv2d(4 * a, b, 1) for a, b in pairwise(channels))
        self.grow = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairwise(channels))
        self.up = nn.ModuleList(blocks(2 * c, c) for c in channels[:-1])
        self.conv_out = nn.Conv2d(channels[0], 3 * PATCH**2, 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)
        if weights is not None:
            state = state_dict_of(load_checkpoint(weights), prefix="network.")
            load_strict(self, state, source=weights)

    @property
    def multiple(self) -> int:
        """Required divisor of both sides of the image, in pixels."""
        return PATCH * 2 ** (len(self.down) - 1)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """Images (B, 3, H, W) of unit variance, c_noise (B,) -> (B, 3, H, W)."""
        embedding = F.silu(self.embed(_waves(c_noise)))
        h = self.conv_in(F.pixel_unshuffle(x, PATCH))
        skips = []
        for stage, blocks in enumerate(self.down):
            if stage:
                skips.append(h)
                h = self.shrink[stage - 1](F.pixel_unshuffle(h, 2))
            for block in blocks:  # type: ignore[attr-defined]
                h = block(h, embedding)
        for stage in reversed(range(len(self.up))):
            h = F.pixel_shuffle(self.grow[stage](h), 2)
            h = torch.cat([h, skips.pop()], dim=1)
            for block in self.up[stage]:  # type: ignore[attr-defined]
                h = block(h, embedding)
        return F.pixel_shuffle(self.conv_out(F.silu(_normalised(h))), PATCH)


def _normalised(x: Tensor) -> Tensor:
    """Normalize the channels of each pixel to a mean square of 1."""
    return x * (x.square().mean(dim=1, keepdim=True) + 1e-4).rsqrt()


def _waves(c_noise: Tensor) -> Tensor:
    """Sinusoidal embedding of noise levels: (B,) -> (B, 2 * FREQUENCIES)."""
    frequencies = torch.logspace(0, 1.5, FREQUENCIES, device=c_noise.device)
    angles = c_noise[:, None] * frequencies * (math.pi / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=1)
