"""The one LightningDataModule: sources, preprocessing and loaders."""

import os
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from datamodules.dataset import ImageDataset, SkipCounter, Transform, collate
from datamodules.image_sets import Source
from datamodules.loader import TrainingLoader
from datamodules.sampler import ShardedBatchSampler, ShardedRandomSampler
from datamodules.shard_loader import ShardLoader, ShardSettings
from datamodules.shards import Shards

SPLITS = ("train", "val", "test")
ANNOTATIONS = ("caption", "score_caption", "label_map")
# A fit is usually followed by a test: report missing images before training.
STAGES = {"fit": SPLITS, "validate": ("val",), "test": ("test",), "predict": ()}
ON_ERROR = ("stop", "skip")
REQUIRED = {"fit": "train", "validate": "val", "test": "test"}


class ImageDataModule(LightningDataModule):
    """Image sets for training, validation and test.

    Batches have `image` (B, 3, H, W) in [0, 1], `index` (B,) into the set, `name` and, if the
    source has them, `caption`, `score_caption` and `label_map` (B, H, W). Use
    `Trainer(use_distributed_sampler=False)`: the loaders split the images over the processes and
    test each image exactly once.

    Args:
        name: of the test set, as logged.
        root: folder that paths of sources are relative to.
        train, val, test: sources of the images; null: none. Shards are for training only.
        calibration: sources of images for calibration, none of them tested; see
            `datamodules.calibration`.
        train_transform: PIL image -> PIL image of a fixed size.
        eval_transform: the same for validation and test, deterministic; null: full resolution.
        batch_size: training images per step and process.
        eval_batch_size: images of equal size evaluated together.
        num_workers: loader processes; 0 reads in the training process.
        cache: keep decoded training images in memory.
        samples_per_epoch: training images per epoch over all processes, independent of the size of
            the set; null: each image once. Required for shards, which do not store their number of
            images.
        on_error: reaction to a broken or missing image in an evaluation: `stop` with an error that
            names it, or `skip` it and count it. Training always skips and counts.

    Attributes:
        measured: indices of test images that are already measured and skipped.

    Raises:
        ValueError: a number is out of range; on `setup`, a set is missing, empty or smaller than
            the number of processes.
    """

    def __init__(
        self,
        name: str,
        *,
        root: str | None = None,
        train: Source | Shards | None = None,
        val: Source | None = None,
        test: Source | None = None,
        calibration: Sequence[Source] = (),
        train_transform: Transform | None = None,
        eval_transform: Transform | None = None,
        batch_size: int = 8,
        eval_batch_size: int = 1,
        num_workers: int = 0,
        cache: bool = False,
        samples_per_epoch: int | None = None,
        on_error: str = "stop",
    ) -> None:
        super().__init__()
        if on_error not in ON_ERROR:
            raise ValueError(f"unknown on_error {on_error!r}, choose from {', '.join(ON_ERROR)}")
        for key, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("samples_per_epoch", 1 if samples_per_epoch is None else samples_per_epoch, 1),
        ):
            if value < least:
                raise ValueError(f"{key} must be at least {least}, got {value}")
        for split, source in (("val", val), ("test", test)):
            if isinstance(source, Shards):
                raise ValueError(f"{split} images cannot come from shards: pass a folder")
        if isinstance(train, Shards) and samples_per_epoch is None:
            raise ValueError(
                "shards do not store their number of images: pass datamodule.samples_per_epoch=N"
            )
        self.name = name
        self.root = None if root is None else Path(root).expanduser()
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.cache = cache
        self.samples_per_epoch = samples_per_epoch
        self.on_error = on_error
        self._sources: dict[str, Source | Shards | None] = {
            "train": train,
            "val": val,
            "test": test,
        }
        self._transforms = {"train": train_transform, "val": eval_transform, "test": eval_transform}
        self.calibration = tuple(calibration)
        self._datasets: dict[str, ImageDataset] = {}
        self._skipped_of_shards = SkipCounter()

    def prepare_data(self) -> None:
        """Download what is missing; Lightning calls it in one process per machine."""
        for source in (*self._sources.values(), *self.calibration):
            if source is not None:
                source.prepare(self.root)

    def setup(self, stage: str) -> None:
        """List the images that `fit`, `validate`, `test` or `predict` needs.

        Raises:
            ValueError: images are missing, or fewer than processes.
        """
        for split in STAGES[stage]:
            if isinstance(self._sources[split], Shards):
                self.train_dataloader()  # checks what it needs and opens nothing
                continue
            dataset = self.dataset(split)
            if dataset is None:
                if split == REQUIRED[stage]:
                    raise ValueError(f"datamodule {self.name!r} has no {split} images")
                continue
            count = len(dataset)
            if split == "train" and self.samples_per_epoch is not None:
                count = self.samples_per_epoch
            if count < self._world_size and split != "val":
                raise ValueError(
                    f"datamodule {self.name!r} has {count} {split} images for "
                    f"{self._world_size} processes: each needs at least one"
                )

    def dataset(self, split: str) -> ImageDataset | None:
        """The images of `train`, `val` or `test`, or None if the datamodule has none.

        Raises:
            ValueError: the split is unknown, or its images are missing or in shards.
        """
        if split not in SPLITS:
            raise ValueError(f"unknown split {split!r}, choose from {', '.join(SPLITS)}")
        source = self._sources[split]
        if source is None:
            return None
        if isinstance(source, Shards):
            raise ValueError(
                f"the {split} images of datamodule {self.name!r} are in shards, which are for "
                "training only: use a folder of images"
            )
        if split not in self._datasets:
            training = split == "train"
            try:
                items = source.items(self.root)
            except ValueError as error:
                raise ValueError(f"datamodule {self.name!r}, {split} images: {error}") from error
            self._datasets[split] = ImageDataset(
                items,
                self._transforms[split],
                training=training,
                cache=self.cache and training,
                skip_broken=self.on_error == "skip",
            )
        return self._datasets[split]

    @property
    def annotations(self) -> set[str]:
        """The annotations of the test images, by their keys in a batch."""
        dataset = self.dataset("test")
        first = dataset.items[0] if dataset else None
        return {key for key in ANNOTATIONS if getattr(first, key, None) is not None}

    @property
    def num_skipped(self) -> int:
        """Number of broken training images that this process skipped."""
        dataset = self._datasets.get("train")
        return self._skipped_of_shards.value + (0 if dataset is None else dataset.num_skipped)

    def train_dataloader(self) -> DataLoader[Any] | ShardLoader:
        source = self._sources["train"]
        if isinstance(source, Shards):
            return self._shard_loader(source)
        dataset = self.dataset("train")
        if dataset is None:
            raise ValueError(f"datamodule {self.name!r} has no train images")
        sampler = ShardedRandomSampler(
            len(dataset),
            self.samples_per_epoch,
            rank=self._rank,
            world_size=self._world_size,
            seed=_seed(),
        )
        return TrainingLoader(
            dataset, sampler, batch_size=self.batch_size, num_workers=self.num_workers
        )

    def _shard_loader(self, source: Shards) -> ShardLoader:
        draws = self.batch_size * self._world_size
        if (self.samples_per_epoch or 0) < draws:
            raise ValueError(
                f"datamodule.samples_per_epoch={self.samples_per_epoch} is less than one batch of "
                f"{self.batch_size} images for each of {self._world_size} processes"
            )
        try:
            settings = ShardSettings(
                source.locations(self.root),
                self._transforms["train"],
                batch_size=self.batch_size,
                num_batches=(self.samples_per_epoch or 0) // draws,
                buffer=source.buffer,
                captions=source.captions,
                seed=_seed(),
                rank=self._rank,
                world_size=self._world_size,
                skipped=self._skipped_of_shards,
            )
            return ShardLoader(settings, self.num_workers)
        except ValueError as error:
            raise ValueError(f"datamodule {self.name!r}, train images: {error}") from error

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        return self._eval_dataloader("val")

    def test_dataloader(self) -> DataLoader[Any] | list[Any]:
        return self._eval_dataloader("test")

    def _eval_dataloader(self, split: str) -> DataLoader[Any] | list[Any]:
        dataset = self.dataset(split)
        if dataset is None:
            return []
        rank, world_size = self._rank, self._world_size
        if split == "val" and len(dataset) < world_size:
            # A process without images to validate would block the others: some images are validated
            # by several processes, and their rows are deduplicated by index.
            rank, world_size = rank % len(dataset), len(dataset)
        batches = ShardedBatchSampler(
            len(dataset),
            batch_size=self.eval_batch_size,
            rank=rank,
            world_size=world_size,
            sizes=dataset.sizes if self.eval_batch_size > 1 else None,
            without=self._measured if split == "test" else (),
        )
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # as in training
        )

    @property
    def _measured(self) -> Container[int]:
        """Indices of test images that need no measuring, by the pass."""
        tested = self.trainer.lightning_module if self.trainer else None
        found: Container[int] = getattr(tested, "measured", ())
        return found

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0


def _seed() -> int:
    """The seed that Lightning's seed_everything leaves for all processes."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))
