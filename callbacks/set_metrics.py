"""What is measured on a set of images: Fréchet and kernel distances between two clouds of features.

Patch protocol (HiFiC's, as NeuralCompression implements it): non-overlapping 256x256 tiles, the
remainder dropped; where both sides are at least 384, again from offset (128, 128). Kodak gives 192
patches. Originals are the real set, reconstructions the fake one.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.image.kid import poly_mmd

PATCH = 256
OFFSET = 128
KID_SUBSETS = 100
KID_SUBSET_SIZE = 1000
PROTOCOLS = {
    "patches": "256x256 tiles, second pass at offset 128 (NeuralCompression)",
    "whole": "whole images",
}


def patches(image: Tensor) -> Tensor:
    """An image (3, H, W) -> its tiles (P, 3, 256, 256); P may be 0."""
    tiles = [_tiles(image)]
    if min(image.shape[-2:]) >= PATCH + OFFSET:
        tiles.append(_tiles(image[:, OFFSET:, OFFSET:]))
    return torch.cat(tiles)


def _tiles(image: Tensor) -> Tensor:
    if min(image.shape[-2:]) < PATCH:
        return image.new_empty((0, image.shape[0], PATCH, PATCH))
    grid = image.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH)  # (3, rows, columns, 256, 256)
    return grid.permute(1, 2, 0, 3, 4).reshape(-1, image.shape[0], PATCH, PATCH)


def frechet_distance(real: Tensor, fake: Tensor) -> float:
    """Fréchet distance between Gaussians fitted to two feature sets (N, D) and (M, D).

    |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) (Heusel et al., 2017), in float64. With
    S_i = A_i^T A_i the last trace is the sum of the singular values of A_1 A_2^T. That needs no
    root of a matrix that is singular when there are fewer samples than features, where eigenvalues
    that should be zero would add noise of the order of 1e-5.

    Raises:
        ValueError: a set has fewer than two samples.
    """
    if min(len(real), len(fake)) < 2:
        raise ValueError(f"need at least two samples a side, got {len(real)} and {len(fake)}")
    mean_1, root_1 = _moments(real)
    mean_2, root_2 = _moments(fake)
    cross = torch.linalg.svdvals(root_1 @ root_2.T).sum()
    distance = (mean_1 - mean_2).square().sum() + root_1.square().sum() + root_2.square().sum()
    return float(distance - 2 * cross)


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and a matrix A with A^T A the covariance."""
    features = features.double()
    mean = features.mean(dim=0)
    root = (features - mean) / (len(features) - 1) ** 0.5
    if len(root) > root.shape[1]:
        root = torch.linalg.qr(root, mode="r").R
    return mean, root


def kernel_distance(real: Tensor, fake: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, in float64.

    Over 1000 samples it is the mean over 100 random subsets of 1000, drawn with a fixed seed
    (Binkowski et al., 2018); up to 1000 it is the estimate on all of them.

    Raises:
        ValueError: a set has fewer than two samples.
    """
    count = min(len(real), len(fake))
    if count < 2:
        raise ValueError(f"need at least two samples a side, got {len(real)} and {len(fake)}")
    real, fake = real.double(), fake.double()
    if max(len(real), len(fake)) <= KID_SUBSET_SIZE:
        return float(_unbiased(real, fake))
    size = min(KID_SUBSET_SIZE, count)
    generator = torch.Generator().manual_seed(0)
    scores = []
    for _ in range(KID_SUBSETS):
        a = torch.randperm(len(real), generator=generator)[:size]
        b = torch.randperm(len(fake), generator=generator)[:size]
        scores.append(_unbiased(real[a], fake[b]))
    return float(torch.stack(scores).mean())


def _unbiased(real: Tensor, fake: Tensor) -> Tensor:
    distance: Tensor = poly_mmd(real, fake, degree=3, gamma=None, coef=1.0)
    return distance


class InceptionFeatures(nn.Module):
    """The 2048 pooled features of the Inception network that FID is defined with.

    Args:
        weights: `weights-inception-2015-12-05-6726825d.pth` as a file; null takes it from the torch
            hub cache or downloads it.

    Raises:
        ValueError: the weights cannot be had.
    """

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        try:
            self.network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=weights
            )
        except (OSError, RuntimeError) as error:
            raise ValueError(f"no weights for the Inception network of FID: {error}") from error
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        """uint8 images (B, 3, H, W) -> features (B, 2048)."""
        features: Tensor = self.network(x)[0]
        return features


class RandomFeatures(nn.Module):
    """A fixed random convolutional embedding, for machines without Inception weights.

    Four 3x3 convolutions of stride 2 with ReLU, their weights drawn once and for all; the features
    are the spatial means and standard deviations of every layer's activations. Random embeddings
    are a sound basis for comparing image sets (Naeem et al., ICML 2020); the distances are
    comparable with one another only.

    Attributes:
        WIDTH: channels of each layer; D = 4 layers * 2 * WIDTH features.
    """

    WIDTH = 32
    DEPTH = 4

    def __init__(self) -> None:
        super().__init__()
        # NumPy promises that this generator's stream never changes; torch promises nothing.
        random = np.random.RandomState(0)
        channels = 3
        for layer in range(self.DEPTH):
            weight = random.standard_normal((self.WIDTH, channels, 3, 3))
            if layer == 0:
                # Half of the filters ignore brightness, or it would drown texture.
                weight[::2] -= weight[::2].mean(axis=(2, 3), keepdims=True)
            weight /= np.sqrt((weight**2).sum(axis=(1, 2, 3), keepdims=True) / 2)
            self.register_buffer(f"weight{layer}", torch.from_numpy(weight).float())
            channels = self.WIDTH

    def forward(self, x: Tensor) -> Tensor:
        """uint8 images (B, 3, H, W) -> features (B, 256)."""
        h = x.float().div(127.5).sub(1)
        features = []
        for layer in range(self.DEPTH):
            h = F.relu(F.conv2d(h, self.get_buffer(f"weight{layer}"), stride=2, padding=1))
            features += [h.mean(dim=(2, 3)), h.std(dim=(2, 3), correction=0)]
        return torch.cat(features, dim=1)
