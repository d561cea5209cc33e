"""Context maps for CDC's U-Net of what any codec decoded: its picture, its latents, its rate."""

import math

import torch
from torch import Tensor, nn

LATENT_STRIDE = 16  # of y_hat, in every learned codec here
TYPICAL_LMBDA = 0.0130  # in the middle of the usual weights, which are 0.002 to 0.18


class ContextEmbedder(nn.Module):
    """(x_hat, lmbda; y_hat) -> context maps at 1, 1/2, 1/4, 1/8 and, with y_hat, 1/16 of the size.

    Args:
        channels: of the finest map; the next three have twice as many.
        latent_channels: of y_hat, which is used where there are some; its map has four times as
            many as the finest.
    """

    def __init__(self, channels: int, latent_channels: int = 0) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Conv2d(4, channels, 3, padding=1)])
        for i in range(3):
            inputs = channels if i == 0 else 2 * channels
            down = nn.Conv2d(inputs, 2 * channels, 3, stride=2, padding=1)
            self.stages.append(nn.Sequential(down, nn.ReLU()))
        self.latents = nn.Conv2d(latent_channels, 4 * channels, 1) if latent_channels else None
        self.context_channels = [channels, *[2 * channels] * 3]
        if latent_channels:
            self.context_channels.append(4 * channels)

    def forward(
        self, x_hat: Tensor, lmbda: Tensor | None = None, y_hat: Tensor | None = None
    ) -> list[Tensor]:
        """Context maps, finest first, `context_channels` of them.

        Args:
            x_hat: the codec's pictures, (B, 3, H, W) in [-1, 1], sides that are multiples of 16.
            lmbda: rate-distortion weights of the streams, (B,); None is no such knowledge.
            y_hat: quantised latents, (B, C, H / 16, W / 16), where the embedder was made for some.
        """
        rate = x_hat.new_zeros(len(x_hat))
        if lmbda is not None:
            rate = (lmbda.to(x_hat) / TYPICAL_LMBDA).log() / math.log(10)
        plane = rate[:, None, None, None].expand(-1, 1, *x_hat.shape[-2:])
        contexts = []
        h = torch.cat([x_hat, plane], dim=1)
        for stage in self.stages:
            h = stage(h)
            contexts.append(h)
        if self.latents is not None:
            assert y_hat is not None
            # Values of y_hat reach the hundreds, and most are below one.
            contexts.append(self.latents(y_hat.asinh()))
        return contexts
