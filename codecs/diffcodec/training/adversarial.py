"""A patch discriminator with hinge loss (Lim & Ye, 2017), trained in the same backward pass."""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """Scores overlapping patches of 38x38 pixels of an image (Isola et al., 2017).

    It uses spectral normalization (Miyato et al., 2018) instead of batch normalization, so that the
    score of an image does not depend on the rest of the batch.

    Args:
        width: number of channels of the first layer.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        channels = [3, width, 2 * width, 4 * width]
        layers: list[nn.Module] = []
        for i, o in pairwise(channels):
            layers += [spectral_norm(nn.Conv2d(i, o, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        layers += [
            spectral_norm(nn.Conv2d(channels[-1], channels[-1], 3, padding=1)),
            nn.LeakyReLU(0.2),
            spectral_norm(nn.Conv2d(channels[-1], 1, 1)),
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] -> scores (B, 1, H / 8, W / 8); higher is more real."""
        scores: Tensor = self.layers(x)
        return scores.float()

    def generator_loss(self, x_hat: Tensor) -> Tensor:
        """The decoder's loss, a scalar with gradients for `x_hat` only."""
        self.requires_grad_(False)
        loss = -self(x_hat).mean()
        self.requires_grad_(True)
        return loss

    def loss(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """The discriminator's loss, a scalar with gradients for its weights only."""
        fake, real = self(x_hat.detach()), self(x.detach())
        return (F.relu(1 + fake).mean() + F.relu(1 - real).mean()) / 2
