"""The training loader, which can resume in the middle of an epoch."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader

from datamodules.dataset import ImageDataset, collate
from datamodules.sampler import ShardedRandomSampler


class TrainingLoader(DataLoader[Any]):
    """Batches of training images, resumable in the middle of an epoch.

    Lightning stores `state_dict()` in its checkpoints. It counts batches that were handed out, not
    those that workers have prefetched.

    Args:
        dataset: the images.
        sampler: their order; used by this loader only.
        batch_size: images per batch and process. An incomplete last batch of an epoch is dropped,
            unless it is the only one.
        num_workers: loader processes; 0 reads in the training process.
    """

    sampler: ShardedRandomSampler

    def __init__(
        self,
        dataset: ImageDataset,
        sampler: ShardedRandomSampler,
        *,
        batch_size: int,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            drop_last=len(sampler) >= batch_size,
            # Without its own generator, every epoch would draw from torch's, which training uses.
            generator=torch.Generator(),
        )
        self._first = 0  # batches that the next pass skips
        self._handed_out = 0  # batches of this epoch

    @property
    def _draws_per_batch(self) -> int:
        """Over all processes."""
        return int(self.batch_size or 1) * self.sampler.world_size

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self._handed_out, self._first = self._first, 0
        self.sampler.first = self._handed_out * int(self.batch_size or 1)
        for batch in super().__iter__():
            self._handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch and the number of its draws that were handed out, over all processes."""
        return {
            "epoch": self.sampler.epoch,
            "draws": self._handed_out * self._draws_per_batch,
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Start the next pass where another loader of these images stopped.

        With another batch size or number of processes it starts at the last complete batch before.
        """
        epoch, batches = state["epoch"], state["draws"] // self._draws_per_batch
        if batches >= len(self):
            epoch, batches = epoch + 1, 0
        self.sampler.set_epoch(epoch)
        self._first = batches
