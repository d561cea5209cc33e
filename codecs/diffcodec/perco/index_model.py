"""Entropy model of the codes: their frequencies, and a network that predicts from neighbours.

Codes are coded in five groups, each spread evenly over the grid:

    0 4 2 4
    4 3 4 3
    2 4 1 4
    4 3 4 3

A small convolutional network predicts a group from all previous groups. It sees all four neighbours
for half of the codes, and the four diagonal neighbours for a quarter. A grid of any size takes five
evaluations; raster-scan order would take one evaluation per code.
"""

import math

import torch
from torch import Tensor, nn

NUM_GROUPS = 5
REACH = 4  # receptive field of the network, in codes on each side


class IndexModel(nn.Module):
    """The entropy model of the codes of one rate.

    Args:
        num_codes: size V of the codebook.
        channels: number of channels of the network.

    Attributes:
        counts: number of occurrences of each code in training plus 1, (V,) int64.
    """

    counts: Tensor

    def __init__(self, num_codes: int, channels: int = 40) -> None:
        super().__init__()
        self.num_codes = num_codes
        # The last entry represents unknown codes.
        self.embedding = nn.Embedding(num_codes + 1, channels)
        self.body = nn.Sequential(
            *(
                layer
                for _ in range(REACH)
                for layer in (nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU())
            )
        )
        self.head = nn.Sequential(nn.Conv2d(channels, num_codes, 1))
        self.register_buffer("counts", torch.ones(num_codes, dtype=torch.int64))

    @property
    def trained(self) -> bool:
        """Whether the counts contain any codes from training."""
        return bool(self.counts.sum() > self.num_codes)

    def forward(self, indices: Tensor, known: Tensor) -> Tensor:
        """Predict the logits (B, V, h, w) of all codes.

        Args:
            indices: codes, (B, h, w).
            known: mask of the codes that the network may see, (h, w) or (B, h, w) bool.
        """
        embedded: Tensor = self.embedding(torch.where(known, indices, self.num_codes))
        out: Tensor = self.head(self.body(embedded.permute(0, 3, 1, 2)))
        return out

    def num_bits(self, indices: Tensor) -> Tensor:
        """Ideal code length of each group of indices (B, h, w), in bits; (NUM_GROUPS,)."""
        group = groups(*indices.shape[1:]).to(indices.device)
        bits = []
        for number in range(NUM_GROUPS):
            log_p = self(indices, group < number).log_softmax(1)
            of_codes = log_p.gather(1, indices[:, None])[:, 0]
            bits.append(-of_codes[:, group == number].sum() / math.log(2))
        return torch.stack(bits)


def groups(height: int, width: int) -> Tensor:
    """The group of each code of a grid, (height, width) int64 in [0, NUM_GROUPS)."""
    i, j = torch.meshgrid(torch.arange(height) % 4, torch.arange(width) % 4, indexing="ij")
    group = torch.where((i + j) % 2 == 0, 3, 4)
    group[(i % 2 == 0) & (j % 2 == 0)] = 2
    group[(i == 2) & (j == 2)] = 1
    group[(i == 0) & (j == 0)] = 0
    return group
