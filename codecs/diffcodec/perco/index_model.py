"""What is known of a code before it is read: how often it occurs, and what its neighbours say.

Codes are read in five groups, each of which is spread evenly over the grid:

    0 4 2 4
    4 3 4 3
    2 4 1 4
    4 3 4 3

A small network of convolutions predicts a group from all groups before it. Half of the codes then
have their four neighbours, a quarter the four diagonal ones. That takes five evaluations for a grid
of any size, where the order of lines would take one for each code.
"""

import math

import torch
from torch import Tensor, nn

NUM_GROUPS = 5
REACH = 4  # codes on each side that the network sees


class IndexModel(nn.Module):
    """Predicts the codes of a rate.

    Args:
        num_codes: V, size of the codebook.
        channels: of the network.

    Attributes:
        counts: how often each code occurred in training, (V,) int64; ones before.
    """

    counts: Tensor

    def __init__(self, num_codes: int, channels: int = 40) -> None:
        super().__init__()
        self.num_codes = num_codes
        # The last entry stands for a code that is not known yet.
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
        """Whether it has seen any codes."""
        return bool(self.counts.sum() > self.num_codes)

    def forward(self, indices: Tensor, known: Tensor) -> Tensor:
        """Logits (B, V, h, w) of all codes.

        Args:
            indices: (B, h, w).
            known: which of them the network may see, (h, w) or (B, h, w) of bool.
        """
        embedded: Tensor = self.embedding(torch.where(known, indices, self.num_codes))
        out: Tensor = self.head(self.body(embedded.permute(0, 3, 1, 2)))
        return out

    def num_bits(self, indices: Tensor) -> Tensor:
        """Ideal code lengths of the codes of each group, (NUM_GROUPS,) in bits, of (B, h, w)."""
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
