"""Which images each process trains on and evaluates, and in which batches."""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Sampler

_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Draw:
    """A training image and the seed of its random choices, such as crop and frame."""

    index: int
    seed: int


class ShardedRandomSampler(Sampler[Draw]):
    """Shuffled training images, disjoint between processes at every step.

    All processes shuffle alike, and each takes every `world_size`-th draw, equally many. Draws
    depend only on seed, epoch and position, so an epoch can resume in its middle.

    Args:
        num_images: size of the set.
        num_samples: draws per epoch over all processes. The set is reshuffled when it is used up,
            so draw counts of images differ by at most one. Null: each image once.
        rank, world_size: this process, and the number of processes.
        seed: the same in all processes.

    Raises:
        ValueError: there are fewer draws than processes.
    """

    def __init__(
        self,
        num_images: int,
        num_samples: int | None = None,
        *,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
    ) -> None:
        self.num_images = num_images
        self.num_samples = num_images if num_samples is None else num_samples
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.epoch = 0
        self.first = 0
        """How many draws of this process the next pass leaves out at its beginning."""
        _check_share(self.num_samples, rank, world_size)

    def set_epoch(self, epoch: int) -> None:
        """Shuffle by this epoch from now on; Lightning calls it before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Draw]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        rounds = -(-self.num_samples // self.num_images)
        order = torch.cat(
            [torch.randperm(self.num_images, generator=generator) for _ in range(rounds)]
        )
        seeds = torch.randint(1 << 62, (len(order),), generator=generator)
        first = self.rank + self.first * self.world_size
        own = slice(first, len(self) * self.world_size, self.world_size)
        # In chunks: millions of Python integers take a gigabyte.
        for indices, some in zip(
            order[own].split(_AT_ONCE), seeds[own].split(_AT_ONCE), strict=True
        ):
            yield from map(Draw, indices.tolist(), some.tolist())

    def __len__(self) -> int:
        return self.num_samples // self.world_size


class ShardedBatchSampler(Sampler[list[int]]):
    """Every image once over all processes, in batches of images of equal size.

    Lightning's sampler repeats images until all processes have equally many, so metrics depend on
    the number of processes. A process without images gets one empty batch, because it must take
    part in the collective operations at the end.

    Args:
        num_images: size of the set.
        batch_size: maximum number of images per batch.
        rank, world_size: this process, and the number of processes.
        sizes: (height, width) of each image; needed for batches of more than one.
        without: images to skip, because they are already measured.

    Raises:
        ValueError: there are fewer images than processes.
    """

    def __init__(
        self,
        num_images: int,
        *,
        batch_size: int = 1,
        rank: int = 0,
        world_size: int = 1,
        sizes: Sequence[tuple[int, int]] | None = None,
        without: Container[int] = (),
    ) -> None:
        _check_share(num_images, rank, world_size)
        if batch_size > 1 and sizes is None:
            raise ValueError("batches of several images need the images' sizes")
        if sizes is not None and len(sizes) != num_images:
            raise ValueError(f"{len(sizes)} sizes for {num_images} images")
        groups: dict[tuple[int, int], list[int]] = {}
        left = [index for index in range(num_images) if index not in without]
        for index in left[rank::world_size]:
            groups.setdefault(sizes[index] if sizes else (0, 0), []).append(index)
        self._batches = [
            group[start : start + batch_size]
            for group in groups.values()
            for start in range(0, len(group), batch_size)
        ] or [[]]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


def _check_share(num_images: int, rank: int, world_size: int) -> None:
    assert 0 <= rank < world_size
    if num_images < world_size:
        raise ValueError(f"{num_images} images cannot be split over {world_size} processes")
