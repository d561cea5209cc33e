"""Times the loader of training images without training."""

import time
from itertools import pairwise
from typing import Any

from datamodules.module import ImageDataModule
from experiments.benchmarking.coding import spread


def measure_data(datamodule: ImageDataModule, *, num_batches: int) -> dict[str, Any]:
    """Images per second of one process's training loader, and the time of the first batch.

    Args:
        datamodule: whose `train_dataloader` is timed, over consecutive epochs.
        num_batches: number of timed batches after the first, which waits for file lists and for
            loader processes.

    Raises:
        ValueError: `num_batches` is not positive, or images are missing.
    """
    if num_batches < 1:
        raise ValueError(f"data must be at least 1 batch, got {num_batches}")
    start = time.perf_counter()
    datamodule.prepare_data()
    loader = datamodule.train_dataloader()
    times: list[float] = []
    count, epoch = 0, 0
    while len(times) <= num_batches:
        loader.sampler.set_epoch(epoch)  # type: ignore[union-attr]
        for batch in loader:
            times.append(time.perf_counter())
            count += len(batch["image"]) if len(times) > 1 else 0
            if len(times) > num_batches:
                break
        epoch += 1
    of_batches = spread([b - a for a, b in pairwise(times)])
    return {
        "batch": datamodule.batch_size,
        "first_seconds": times[0] - start,
        "images_per_second": count / (times[-1] - times[0]),
        "seconds": {"median": of_batches.median, "low": of_batches.low, "high": of_batches.high},
        "skipped": datamodule.num_skipped,
    }
