"""Reads and preprocesses items into samples and batches."""

import multiprocessing
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset, default_collate
from torchvision.transforms.v2.functional import pil_to_tensor
from torchvision.tv_tensors import Mask

from datamodules.files import ImageReadError, image_size, read_rgb
from datamodules.image_sets import Item
from datamodules.sampler import Draw

Transform = Callable[[Image.Image], Image.Image]


@dataclass  # not frozen: Lightning moves a batch to the device field by field
class Skipped:
    """An image of an evaluation that could not be read, and the reason."""

    index: int
    name: str
    reason: str


class SkipCounter:
    """Counts broken training images over all loader processes and warns of the first."""

    def __init__(self) -> None:
        # A lock of the spawn context works with workers of every start method; one of the default
        # context does not.
        self._value = multiprocessing.get_context("spawn").Value("l", 0)

    @property
    def value(self) -> int:
        return int(self._value.value)

    def count(self, error: Exception) -> None:
        """Count one error."""
        with self._value.get_lock():
            self._value.value += 1
            first = self._value.value == 1
        if first:
            warnings.warn(
                f"{error}; skipping this and all further broken training images",
                stacklevel=2,
            )


class ImageDataset(Dataset[dict[str, Any] | Skipped]):
    """Samples of `image` (3, H, W) in [0, 1], `index`, `name` and the annotations of the item.

    Annotations are `caption`, `score_caption` and `label_map` (H, W). The transform is applied to
    image and label map together; one of torchvision's `transforms.v2` can do that.

    Args:
        items: the images.
        transform: PIL image -> PIL image, or null. It draws from torch's generator.
        training: draw a random frame of clips, and skip broken files with one warning. In
            evaluation the first frame is used, and a broken file raises an error that names it.
        cache: keep decoded images in memory, in each loader worker.
        skip_broken: in evaluation, return a `Skipped` for a broken file.
    """

    def __init__(
        self,
        items: Sequence[Item],
        transform: Transform | None = None,
        *,
        training: bool = False,
        cache: bool = False,
        skip_broken: bool = False,
    ) -> None:
        self.items = items
        self.transform = transform
        self.training = training
        self.skip_broken = skip_broken
        self._cache: dict[int, Image.Image] | None = {} if cache else None
        self._skipped = SkipCounter()

    def __len__(self) -> int:
        return len(self.items)

    @property
    def num_skipped(self) -> int:
        """Number of broken files skipped in training, over all loader workers."""
        return self._skipped.value

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each sample, from the source or the file headers.

        The transform must be deterministic: it is applied to one blank image of each size.

        Raises:
            ImageReadError: a file is missing or not an image, and is not skipped.
        """
        sizes = [self._file_size(item) for item in self.items]
        if self.transform is None:
            return sizes
        transformed = {size: self._transformed_size(size) for size in set(sizes) - {_UNKNOWN}}
        return [transformed.get(size, _UNKNOWN) for size in sizes]

    def __getitem__(self, index: int | Draw) -> dict[str, Any] | Skipped:
        """One sample; in training, of the next readable image.

        A `Draw` carries the seed of its random choices; without one, torch's generator continues.

        Raises:
            ImageReadError: in evaluation, the file is missing, broken or not an image, and is not
                skipped.
            ValueError: in training, no image can be read.
        """
        if isinstance(index, Draw):
            with seeded(index.seed):
                return self[index.index]
        if not self.training:
            try:
                return self._sample(index)
            except ImageReadError as error:
                if not self.skip_broken:
                    hint = "datamodule.on_error=skip leaves such images out"
                    raise ImageReadError(f"{error}; {hint}") from error
                return Skipped(index, self.items[index].name, str(error))
        for offset in range(len(self)):
            try:
                return self._sample((index + offset) % len(self))
            except ImageReadError as error:
                self._skipped.count(error)
        raise ValueError(f"none of the {len(self)} training images can be read")

    def _sample(self, index: int) -> dict[str, Any]:
        item = self.items[index]
        image = self._read(index)
        labels = None if item.label_map is None else item.label_map.read()
        if self.transform is not None and labels is None:
            image = self.transform(image)
        elif self.transform is not None:
            joint: Any = self.transform
            image, labels = joint(image, Mask(labels))
        sample = {
            "image": pil_to_tensor(image).to(torch.float32).div(255),
            "index": index,
            "name": item.name,
        }
        if item.caption is not None:
            sample["caption"] = item.caption
        if item.score_caption is not None:
            sample["score_caption"] = item.score_caption
        if labels is not None:
            if labels.shape != sample["image"].shape[-2:]:
                raise ValueError(
                    f"{item.name} is {tuple(sample['image'].shape[-2:])}, but its label map "
                    f"{tuple(labels.shape)}"
                )
            sample["label_map"] = labels.as_subclass(torch.Tensor)
        return sample

    def _read(self, index: int) -> Image.Image:
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        paths = self.items[index].paths
        # torch's generator, as in the transforms: seeded per worker and process.
        frame = int(torch.randint(len(paths), ())) if self.training and len(paths) > 1 else 0
        image = read_rgb(paths[frame])
        if self._cache is not None and len(paths) == 1:
            self._cache[index] = image
        return image

    def _file_size(self, item: Item) -> tuple[int, int]:
        try:
            return item.size or image_size(item.paths[0])
        except ImageReadError:
            if not self.skip_broken:
                raise
            return _UNKNOWN

    def _transformed_size(self, size: tuple[int, int]) -> tuple[int, int]:
        assert self.transform is not None
        height, width = size
        blank = self.transform(Image.new("RGB", (width, height)))
        return blank.height, blank.width


def collate(samples: Sequence[dict[str, Any] | Skipped]) -> dict[str, Any]:
    """Samples of one size -> `image` (B, 3, H, W), `index` (B,) and lists of the rest.

    Skipped samples are listed under `skipped`; the batch has the others, possibly none (B = 0).

    Raises:
        ValueError: the images have different sizes; the message lists them.
    """
    skipped = [sample for sample in samples if isinstance(sample, Skipped)]
    read = [sample for sample in samples if not isinstance(sample, Skipped)]
    sizes = [tuple(sample["image"].shape[-2:]) for sample in read]
    if len(set(sizes)) > 1:
        listed = ", ".join(
            f"{sample['name']} {height}x{width}"
            for sample, (height, width) in zip(read, sizes, strict=True)
        )
        raise ValueError(
            f"the images of a batch have different sizes (height x width): {listed}; add "
            "a crop of fixed size to datamodule.train_transform, or set datamodule.batch_size=1"
        )
    batch: dict[str, Any] = default_collate(read) if read else _empty_batch()
    return {**batch, "skipped": skipped} if skipped else batch


def _empty_batch() -> dict[str, Any]:
    return {
        "image": torch.empty(0, 3, 1, 1),
        "index": torch.empty(0, dtype=torch.int64),
        "name": [],
    }


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's generator in a context, and restore its state afterwards."""
    # Not torch.manual_seed, which also seeds the accelerators.
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


_UNKNOWN = (0, 0)
