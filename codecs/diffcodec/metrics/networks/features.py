"""Features that distances between sets of pictures are taken on, and which crops they are of.

Patch protocol (HiFiC's, as NeuralCompression implements it): non-overlapping 256x256 tiles, the
remainder dropped; where both sides are at least 384, again from offset (128, 128). Kodak gives 192
patches. Originals are the real set, reconstructions the fake one.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 256
OFFSET = 128
PROTOCOLS = {
    "patches": "256x256 tiles, second pass at offset 128 (NeuralCompression)",
    "whole": "whole images",
}


def cut(image: Tensor, protocol: str) -> Tensor:
    """An image (3, H, W) -> what features are taken of (P, 3, h, w); P may be 0.

    Args:
        image: uint8.
        protocol: one of `PROTOCOLS`.
    """
    return patches(image) if protocol == "patches" else image[None]


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


class InceptionFeatures(nn.Module):
    """The 2048 pooled features of the Inception network that FID is defined with.

    Args:
        weights: `weights-inception-2015-12-05-6726825d.pth`, a source of `diffcodec.weights`; None
            takes it from the torch hub cache or downloads it.

    Raises:
        ValueError: the weights cannot be had.
    """

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        from diffcodec.weights import find_file

        try:
            self.network = FeatureExtractorInceptionV3(
                "inception-v3-compat",
                ["2048"],
                feature_extractor_weights_path=None if weights is None else str(find_file(weights)),
            )
        except (OSError, RuntimeError, ValueError) as error:
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
