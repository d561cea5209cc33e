"""Features that distances between sets of pictures are taken on, and which crops they are of.

The protocols, by the names that `curve.json` and the configs have for them:

    patches   256x256 tiles that do not overlap, the remainder dropped; where both sides are at
              least 384, again from offset (128, 128): HiFiC's, as NeuralCompression implements it.
              Kodak gives 192 patches.
    tiles     the first of these two passes alone, as CDC has it (Sec. 4). Kodak gives 144.
    whole     whole images, resized to 299x299 inside the Inception network as TensorFlow 1 does it:
              bilinear, without a filter against aliasing.
    clean     whole images, resized to 299x299 as clean-fid (Parmar et al., CVPR 2022) does it, with
              which PerCo measures (App. A): bicubic with such a filter, not rounded to 8 bits.

Originals are the real set, reconstructions the fake one.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

PATCH = 256
OFFSET = 128
INCEPTION_SIDE = 299
PROTOCOLS = {
    "patches": "256x256 tiles, second pass at offset 128 (NeuralCompression)",
    "tiles": "256x256 tiles, one pass (CDC)",
    "whole": "whole images",
    "clean": "whole images, resized by clean-fid (PerCo)",
}

# The network's layers up to its pooled features, in their order.
_INCEPTION_LAYERS = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1"),
    *("Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d"),
    *("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    *("Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool"),
)


def cut(image: Tensor, protocol: str) -> Tensor:
    """An image (3, H, W) -> what features are taken of (P, 3, h, w); P may be 0.

    Args:
        image: uint8.
        protocol: one of `PROTOCOLS`. Of `clean` the result is float32 in [0, 255], else uint8.
    """
    if protocol == "patches":
        return patches(image)
    if protocol == "tiles":
        return tiles(image)
    return clean_resize(image)[None] if protocol == "clean" else image[None]


def patches(image: Tensor) -> Tensor:
    """An image (3, H, W) -> its tiles (P, 3, 256, 256); P may be 0."""
    passes = [tiles(image)]
    if min(image.shape[-2:]) >= PATCH + OFFSET:
        passes.append(tiles(image[:, OFFSET:, OFFSET:]))
    return torch.cat(passes)


def tiles(image: Tensor) -> Tensor:
    """An image (3, H, W) -> the tiles of one pass (P, 3, 256, 256); P may be 0."""
    if min(image.shape[-2:]) < PATCH:
        return image.new_empty((0, image.shape[0], PATCH, PATCH))
    grid = image.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH)  # (3, rows, columns, 256, 256)
    return grid.permute(1, 2, 0, 3, 4).reshape(-1, image.shape[0], PATCH, PATCH)


def clean_resize(image: Tensor) -> Tensor:
    """An image (3, H, W), uint8 -> float32 (3, 299, 299) in [0, 255], as clean-fid resizes it.

    Each channel on its own in float32 by Pillow's bicubic filter, whose support grows with the
    reduction, and clipped but not rounded.
    """
    size = (INCEPTION_SIDE, INCEPTION_SIDE)
    channels = [
        np.asarray(Image.fromarray(channel).resize(size, Image.Resampling.BICUBIC))
        for channel in image.cpu().numpy().astype(np.float32)
    ]
    return torch.from_numpy(np.stack(channels)).clamp(0, 255).to(image.device)


class InceptionFeatures(nn.Module):
    """The 2048 pooled features of the Inception network that FID is defined with.

    uint8 pictures are resized to 299x299 as the network's graph did in TensorFlow 1. Pictures of
    float32 in [0, 255] have that size already: `clean_resize` made them.

    Args:
        weights: `weights-inception-2015-12-05-6726825d.pth`, a source of `diffcodec.weights`; None
            takes it from the torch hub cache or downloads it.

    Raises:
        ValueError: the weights cannot be had.
    """

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        from diffcodec.weights.sources import find_file, one_at_a_time

        try:
            file = None if weights is None else str(find_file(weights))
            with one_at_a_time():
                self.network = FeatureExtractorInceptionV3(
                    "inception-v3-compat", ["2048"], feature_extractor_weights_path=file
                )
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"no weights for the Inception network of FID: {error}") from error
        self.requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W), uint8, or float32 of 299x299 -> features (B, 2048)."""
        if x.dtype == torch.uint8:
            features: Tensor = self.network(x)[0]
            return features
        network = self.network
        x = (x - 128) / 128
        for name in _INCEPTION_LAYERS:
            x = getattr(network, name)(x)
        return x.flatten(1)


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
        """Images (B, 3, H, W), uint8 or float in [0, 255] -> features (B, 256)."""
        h = x.float().div(127.5).sub(1)
        features = []
        for layer in range(self.DEPTH):
            h = F.relu(F.conv2d(h, self.get_buffer(f"weight{layer}"), stride=2, padding=1))
            features += [h.mean(dim=(2, 3)), h.std(dim=(2, 3), correction=0)]
        return torch.cat(features, dim=1)
