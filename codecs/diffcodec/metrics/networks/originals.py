"""Cache for features of originals, which are reused at every operating point."""

import hashlib
from collections.abc import Callable, Hashable, Sequence

from torch import Tensor

LIMIT = 256 * 2**20  # bytes of features; ten images of 512x768 with AlexNet


class Originals:
    """Computes the features of an image on the first call, then reads them from a cache.

    Args:
        embed: function from images (1, 3, H, W) in [-1, 1] to features.
        limit: size of the cache in bytes; features that do not fit are computed at every call.
    """

    def __init__(self, embed: Callable[[Tensor], Sequence[Tensor]], limit: int = LIMIT) -> None:
        self._embed = embed
        self._free = limit
        self._kept: dict[Hashable, Sequence[Tensor]] = {}

    def __call__(self, image: Tensor) -> Sequence[Tensor]:
        """Features of a uint8 image (3, H, W)."""
        pixels = hashlib.sha256(image.cpu().contiguous().numpy().tobytes()).digest()
        key = (image.device, image.shape, pixels)
        if key in self._kept:
            return self._kept[key]
        features = self._embed(normalized(image))
        size = sum(f.numel() * f.element_size() for f in features)
        if size <= self._free:
            self._free -= size
            self._kept[key] = features
        return features


def normalized(image: Tensor) -> Tensor:
    """A uint8 image (3, H, W) -> (1, 3, H, W) in [-1, 1]."""
    return image[None].float().div(127.5).sub(1)
