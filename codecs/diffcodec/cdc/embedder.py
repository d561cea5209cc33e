"""Context maps for CDC's U-Net from a base codec's reconstruction, latents and rate."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LATENT_STRIDE = 16  # pixels per value of y_hat along a side, in all learned codecs here
TYPICAL_LMBDA = 0.0130  # middle of the usual range, 0.002 to 0.18


class ContextEmbedder(nn.Module):
    """(x_hat, lmbda, y_hat) -> context maps, from 1 / patch of the resolution to 1/8 or 1/16.

    Args:
        channels: number of channels of the finest map; all other maps have twice as many.
        patch: pixels per value of the finest map, along a side: 1, 2, 4 or 8.
        latent_channels: number of channels of y_hat, from which the map at 1/16 of the resolution
            is computed; 0 omits that map.
    """

    def __init__(self, channels: int, *, patch: int = 1, latent_channels: int = 0) -> None:
        super().__init__()
        self.patch = patch
        self.stages = nn.ModuleList([nn.Conv2d(3 * patch**2 + 1, channels, 3, padding=1)])
        self.context_channels = [channels]
        stride = patch
        while 2 * stride < LATENT_STRIDE:
            down = nn.Conv2d(self.context_channels[-1], 2 * channels, 3, stride=2, padding=1)
            self.stages.append(nn.Sequential(down, nn.ReLU()))
            self.context_channels.append(2 * channels)
            stride *= 2
        self.latents = None
        if latent_channels:
            self.latents = nn.Conv2d(latent_channels, 2 * channels, 1)
            self.context_channels.append(2 * channels)

    def forward(
        self, x_hat: Tensor, lmbda: Tensor | None = None, y_hat: Tensor | None = None
    ) -> list[Tensor]:
        """Compute the context maps, finest first; `context_channels` lists their channels.

        Args:
            x_hat: reconstructions, (B, 3, H, W) in [-1, 1]; H and W are multiples of 16.
            lmbda: rate-distortion weights of the streams, (B,); None if unknown.
            y_hat: quantized latents, (B, C, H / 16, W / 16); required if `latent_channels` is not
                0.
        """
        h = F.pixel_unshuffle(x_hat, self.patch)
        rate = h.new_zeros(len(h))
        if lmbda is not None:
            rate = (lmbda.to(h) / TYPICAL_LMBDA).log() / math.log(10)
        h = torch.cat([h, rate[:, None, None, None].expand(-1, 1, *h.shape[-2:])], dim=1)
        contexts = []
        for stage in self.stages:
            h = stage(h)
            contexts.append(h)
        if self.latents is not None:
            assert y_hat is not None
            # asinh, because values of y_hat reach the hundreds while most are below one.
            contexts.append(self.latents(y_hat.asinh()))
        return contexts
