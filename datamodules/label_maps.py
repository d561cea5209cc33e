"""Label maps beside the images of a data set: one class per pixel."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

IGNORED = 255
"""The value of pixels that have no class."""


@dataclass(frozen=True)
class LabelMap:
    """A picture whose pixels are classes.

    Attributes:
        path: of the picture, with one channel or a palette.
        values: the pixel value of each class, in the order of the classes; other values are
            `IGNORED`. None: the values are the classes.
    """

    path: Path
    values: Sequence[int] | None = None

    def read(self) -> Tensor:
        """The classes (H, W), int64.

        Raises:
            ValueError: the file is missing, not a picture, or has several channels.
        """
        try:
            with Image.open(self.path) as picture:
                labels = np.asarray(picture)
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError(f"cannot read the label map {self.path}: {error}") from error
        if labels.ndim != 2:
            raise ValueError(f"the label map {self.path} has {labels.shape[-1]} channels, not one")
        if self.values is None:
            return torch.from_numpy(labels.astype(np.int64))
        classes = np.full(256, IGNORED, np.int64)
        classes[list(self.values)] = np.arange(len(self.values))
        return torch.from_numpy(classes[np.clip(labels, 0, 255)])


def coco_stuff_values() -> list[int]:
    """The pixel value of each of COCO-Stuff's 171 classes in its maps of things and stuff.

    The maps hold the category number minus one. 11 of the 182 categories were never annotated, and
    networks trained on COCO-Stuff number the others consecutively.
    """
    never = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
    return [category - 1 for category in range(1, 183) if category not in never]
