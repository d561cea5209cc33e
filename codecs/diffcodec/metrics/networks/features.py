"""Features and crops for distances between sets of images.

The protocols, by their names in `curve.json` and in the configs:

    patches   non-overlapping 256x256 tiles without the remainder, and if both sides are at least
              384, a second pass from offset (128, 128). HiFiC's protocol as implemented in
              NeuralCompression. Kodak gives 192 patches.
    tiles     the first pass only, as in CDC (Sec. 4). Kodak gives 144 patches.
    whole     whole images, resized to 299x299 in the Inception network as in TensorFlow 1: bilinear
              without antialiasing.
    clean     whole images, resized to 299x299 as in clean-fid (Parmar et al., CVPR 2022), which
              PerCo uses (App. A): antialiased bicubic, without rounding to 8 bits.

Originals are the real set, reconstructions the fake set.
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

# The network's layers up to the pooled features, in order.
_INCEPTION_LAYERS = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1"),
    *("Conv2d_3b_1x1", "Conv2d_4a_3x3", "MaxPool_2"),
    *("Mixed_5b", "Mixed_5c", "Mixed_5d"),
    *("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
    *("Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool"),
)


def cut(image: Tensor, protocol: str) -> Tensor:
    """Cut an image (3, H, W) into patches (P, 3, h, w); P may be 0.

    Args:
        image: uint8 image.
        protocol: one of `PROTOCOLS`. The result of `clean` is float32 in [0, 255], otherwise uint8.
    """
    if protocol == "patches":
        return patches(image)
    if protocol == "tiles":
        return tiles(image)
    return clean_resize(image)[None] if protocol == "clean" else image[None]


def patches(image: Tensor) -> Tensor:
    """An image (3, H, W) -> tiles of both passes (P, 3, 256, 256); P may be 0."""
    passes = [tiles(image)]
    if min(image.shape[-2:]) >= PATCH + OFFSET:
        passes.append(tiles(image[:, OFFSET:, OFFSET:]))
    return torch.cat(passes)


def tiles(image: Tensor) -> Tensor:
    """An image (3, H, W) -> tiles of one pass (P, 3, 256, 256); P may be 0."""
    if min(image.shape[-2:]) < PATCH:
        return image.new_empty((0, image.shape[0], PATCH, PATCH))
    grid = image.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH)  # (3, rows, columns, 256, 256)
    return grid.permute(1, 2, 0, 3, 4).reshape(-1, image.shape[0], PATCH, PATCH)


def clean_resize(image: Tensor) -> Tensor:
    """Resize a uint8 image (3, H, W) to float32 (3, 299, 299) in [0, 255], as in clean-fid.

    Each channel is resized separately in float32 by Pillow's antialiased bicubic filter. The result
    is clamped, but not rounded.
    """
    size = (INCEPTION_SIDE, INCEPTION_SIDE)
    channels = [
        np.asarray(Image.fromarray(channel).resize(size, Image.Resampling.BICUBIC))
        for channel in image.cpu().numpy().astype(np.float32)
    ]
    return torch.from_numpy(np.stack(channels)).clamp(0, 255).to(image.device)


class InceptionFeatures(nn.Module):
    """The 2048 pooled features of the Inception network of FID, frozen.

    uint8 images are resized to 299x299 as in the TensorFlow 1 graph. float32 images in [0, 255] are
    results of `clean_resize` and already have this size.

    Args:
        weights: source of `weights-inception-2015-12-05-6726825d.pth`, see `diffcodec.weights`;
            None reads the torch hub cache or downloads the file.

    Raises:
        ValueError: the weights cannot be loaded.
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
        """Images (B, 3, H, W), uint8, or float32 with 299x299 pixels -> features (B, 2048)."""
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

    The network has four 3x3 convolutions with stride 2, ReLU and fixed random weights. The features
    are the spatial means and standard deviations of every layer's activations. Random embeddings
    are a sound basis for comparing image sets (Naeem et al., ICML 2020), but the distances are
    comparable only with each other.

    Attributes:
        WIDTH: number of channels of each layer; there are D = 4 layers * 2 * WIDTH features.
    """

    WIDTH = 32
    DEPTH = 4

    def __init__(self) -> None:
        super().__init__()
        # NumPy guarantees the stream of this generator; torch gives no such guarantee.
        random = np.random.RandomState(0)
        channels = 3
        for layer in range(self.DEPTH):
            weight = random.standard_normal((self.WIDTH, channels, 3, 3))
            if layer == 0:
                # Half of the filters ignore brightness, which would otherwise dominate texture.
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
