"""The training loader of shards, in an order that can be resumed."""

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torchvision.transforms.v2.functional import pil_to_tensor

from datamodules.dataset import SkipCounter, Transform, collate, seeded
from datamodules.files import ImageReadError, decode_rgb
from datamodules.shards import BrokenShardError, ShardImage, UnreachableShardError, read_shard

MAX_BUFFER_BYTES = 1 << 28
"""Of the files that a loader process draws from: it holds fewer where they are large."""

ATTEMPTS = 4
"""To read a shard, with longer and longer waits between them."""


@dataclass(frozen=True)
class ShardSettings:
    """Settings that are fixed during a training.

    Attributes:
        locations: the shards.
        transform: PIL image -> PIL image, or null; draws from torch's generator.
        batch_size: images per batch and process.
        num_batches: per epoch and process.
        buffer: images that a loader process draws from.
        captions: whether images have captions; those without are skipped.
        seed: the same in all processes.
        rank, world_size: this process, and the number of processes.
        skipped: counts broken images and shards over all loader processes.
    """

    locations: Sequence[str]
    transform: Transform | None
    batch_size: int
    num_batches: int
    buffer: int
    captions: bool
    seed: int
    rank: int
    world_size: int
    skipped: SkipCounter


class ShardLoader:
    """Batches of `image` (B, 3, H, W) in [0, 1], `index` (B,), `name` and optionally `caption`.

    Batch k comes from loader process k mod n, which reads its shards in an order that depends only
    on the seed, the epoch and its number. To resume in the middle of an epoch, it reads again what
    it had read, without decoding. This gives the same batches if the numbers of processes and
    loader processes and the batch size are unchanged; otherwise the epoch starts over.

    Raises:
        ValueError: there are fewer shards than loader processes.
    """

    def __init__(self, settings: ShardSettings, num_workers: int = 0) -> None:
        self.settings = settings
        self.num_workers = num_workers
        self.epoch = 0
        self._first = 0  # batches that the next pass skips
        self._handed_out = 0  # batches of this epoch
        shards = len(settings.locations)
        if shards < self._num_readers:
            raise ValueError(
                f"{shards} shards cannot be split over {settings.world_size} processes with "
                f"{max(1, num_workers)} loader processes each: set datamodule.num_workers, or make "
                "smaller shards"
            )

    @property
    def sampler(self) -> "ShardLoader":
        """For `set_epoch`, which Lightning calls on the sampler."""
        return self

    @property
    def _num_readers(self) -> int:
        return self.settings.world_size * max(1, self.num_workers)

    def set_epoch(self, epoch: int) -> None:
        """Shuffle by this epoch from now on; Lightning calls it before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.settings.num_batches

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self._handed_out, self._first = self._first, 0
        loader: DataLoader[Any] = DataLoader(
            _ShardPass(self.settings, self.epoch, self._handed_out),
            batch_size=None,  # the loader processes make the batches
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # not torch's, which training uses
        )
        for batch in loader:
            self._handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The epoch, the number of batches handed out, and what they depend on."""
        return {"epoch": self.epoch, "batches": self._handed_out, **self._layout()}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Start the next pass where another loader of these shards stopped."""
        self.epoch, self._first = state["epoch"], state.get("batches", 0)
        if any(state.get(key) != value for key, value in self._layout().items()):
            warnings.warn(
                "the number of processes, loader processes or images per batch differs from the "
                "checkpoint's: training resumes with other images than an uninterrupted run",
                stacklevel=2,
            )
            self._first = 0
        if self._first >= len(self):
            self.epoch, self._first = self.epoch + 1, 0

    def _layout(self) -> dict[str, int]:
        return {"readers": self._num_readers, "batch_size": self.settings.batch_size}


class _ShardPass(IterableDataset[dict[str, Any]]):
    """The batches of one epoch from the `first` on; each loader process makes its own."""

    def __init__(self, settings: ShardSettings, epoch: int, first: int) -> None:
        self.settings = settings
        self.epoch = epoch
        self.first = first

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker, batch_size = get_worker_info(), self.settings.batch_size
        number, of = (0, 1) if worker is None else (worker.id, worker.num_workers)
        # The first batch is requested from process 0, whichever process made it before.
        reader = (number + self.first) % of
        done = len(range(reader, self.first, of)) * batch_size
        last = len(range(reader, self.settings.num_batches, of)) * batch_size
        samples = []
        draws = self._draws(self.settings.rank * of + reader, self.settings.world_size * of)
        for index, (image, seed, others) in enumerate(islice(draws, done, last), start=done):
            samples.append({**self._sample(image, seed, others), "index": index})
            if len(samples) == batch_size:
                yield collate(samples)
                samples = []

    def _sample(self, image: ShardImage, seed: int, others: Sequence[ShardImage]) -> dict[str, Any]:
        """An image; if it is broken, another one, which also keeps its own turn.

        The order of later images therefore does not depend on decoding.

        Raises:
            ValueError: no image can be read.
        """
        for candidate in (image, *reversed(others)):
            try:
                picture = decode_rgb(candidate.data, candidate.name)
            except ImageReadError as error:
                self.settings.skipped.count(error)
                continue
            with seeded(seed):
                if self.settings.transform is not None:
                    picture = self.settings.transform(picture)
            pixels = pil_to_tensor(picture).to(torch.float32).div(255)
            sample = {"image": pixels, "name": candidate.name}
            return sample | ({"caption": candidate.caption} if self.settings.captions else {})
        raise ValueError(
            f"none of {len(others) + 1} images of shards can be read, last {image.name}"
        )

    def _draws(
        self, reader: int, of: int
    ) -> Iterator[tuple[ShardImage, int, Sequence[ShardImage]]]:
        """Images, the seed of the random choices of each, and replacements."""
        rng = np.random.default_rng([self.settings.seed, self.epoch, reader, of])
        held, num_bytes = [], 0
        for image in self._images(reader, of):
            held.append(image)
            num_bytes += len(image.data)
            while len(held) >= self.settings.buffer or (
                num_bytes > MAX_BUFFER_BYTES and len(held) > 1
            ):
                at = int(rng.integers(len(held)))
                held[at], held[-1] = held[-1], held[at]
                drawn = held.pop()
                num_bytes -= len(drawn.data)
                yield drawn, int(rng.integers(1 << 62)), held

    def _images(self, reader: int, of: int) -> Iterator[ShardImage]:
        """The images of this process's shards, repeated when all are read."""
        locations = self.settings.locations
        for turn in count():
            order = np.random.default_rng([self.settings.seed, self.epoch, turn])
            own = order.permutation(len(locations))[reader::of]
            found = False
            for number in own:
                for image in self._read(locations[number]):
                    if self.settings.captions and image.caption is None:
                        continue
                    found = True
                    yield image
            if not found:
                what = "image with a caption" if self.settings.captions else "image"
                raise ValueError(f"no {what} in {len(own)} shards, first {locations[own[0]]}")

    def _read(self, location: str) -> Iterator[ShardImage]:
        """The images of a shard; broken ones are skipped and counted.

        Raises:
            ValueError: the shard cannot be reached after several tries.
        """
        num_read = 0
        for attempt in range(ATTEMPTS):
            try:
                for image in islice(read_shard(location), num_read, None):
                    num_read += 1
                    yield image
                return
            except BrokenShardError as error:
                self.settings.skipped.count(error)
                return
            except UnreachableShardError as error:
                if attempt == ATTEMPTS - 1:
                    raise ValueError(str(error)) from error
                time.sleep(2**attempt)
