"""Convolutions at full resolution after the U-Net of `ResidualCDC`, which works on blocks."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Refiner(nn.Module):
    """Corrects the U-Net's output for every pixel.

    A U-Net on blocks of pixels computes each pixel of a block with other weights. Trained for
    realism, it leaves a faint grid with the period of a block. These convolutions have the same
    weights for every pixel and can remove it. Untrained, they return the U-Net's output.

    Args:
        width: number of channels of the two hidden layers.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(9, width, 3, padding=1)
        self.conv_mid = nn.Conv2d(width, width, 3, padding=1)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)
        for parameter in self.conv_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, out: Tensor, u: Tensor, x_hat: Tensor) -> Tensor:
        """Correct an output.

        Args:
            out: the U-Net's output at full resolution, (B, 3, H, W).
            u: scaled input of the U-Net, (B, 3, H, W).
            x_hat: reconstructions of the base codec in [-1, 1], (B, 3, H, W).
        """
        h = F.relu(self.conv_in(torch.cat([out, u, x_hat], dim=1)))
        correction: Tensor = self.conv_out(F.relu(self.conv_mid(h)))
        return out + correction.float()
