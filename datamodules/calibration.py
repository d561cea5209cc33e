"""Calibration images: a few square crops of a source."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from datamodules.files import read_rgb
from datamodules.image_sets import Source


@dataclass(frozen=True)
class Crops:
    """Calling it returns a centre square crop of each image.

    Attributes:
        sources: of the images.
        root: folder that their paths are relative to.
        names: only these images, in this order; None: all.
        size: side of the crops in pixels; a smaller image is used whole.
        count: maximum number of images.

    Raises:
        ValueError: size or count is not positive.
    """

    sources: Sequence[Source]
    root: str | None = None
    names: Sequence[str] | None = None
    size: int = 256
    count: int = 8

    def __post_init__(self) -> None:
        for name, value in (("size", self.size), ("count", self.count)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    def __call__(self) -> list[Tensor]:
        """Images (1, 3, H, W) in [0, 1].

        Raises:
            ValueError: an image is missing.
        """
        root = Path(self.root).expanduser() if self.root else None
        paths: dict[str, Path] = {}
        for source in self.sources:
            source.prepare(root)
            paths |= {item.name: item.paths[0] for item in source.items(root)}
        names = list(paths) if self.names is None else list(self.names)
        missing = [name for name in names if name not in paths]
        if missing:
            raise ValueError(f"no image {', '.join(missing)}, choose from {', '.join(paths)}")
        return [self._crop(paths[name]) for name in names[: self.count]]

    def _crop(self, path: Path) -> Tensor:
        image = F.pil_to_tensor(read_rgb(path))
        height, width = (min(self.size, side) for side in image.shape[-2:])
        return F.center_crop(image, [height, width])[None].to(torch.float32) / 255
