"""Times training steps with the trainer."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from diffcodec.codec import Codec
from experiments.benchmarking.coding import spread
from experiments.benchmarking.machine import clock_of, peak_memory


class _StepTimer(Callback):
    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._start = clock_of(pl_module.device)()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.seconds.append(clock_of(pl_module.device)() - self._start)


def measure_training(
    codec: Codec, x: Tensor, trainer_options: dict[str, Any], *, repetitions: int, warmup: int
) -> dict[str, Any]:
    """Seconds per optimizer step on a batch, and peak memory; changes the codec's weights.

    Args:
        codec: a trainable codec.
        x: images (B, 3, H, W) in [0, 1].
        trainer_options: accelerator, devices and precision of the `Trainer`.
        repetitions, warmup: number of timed steps, and of steps before.

    Raises:
        ValueError: the codec's training needs something that is not available.
    """
    batch = {"image": x[0], "index": torch.tensor(0), "name": "photograph.png"}
    samples = [{**batch, "image": image} for image in x] * (warmup + repetitions)
    timer = _StepTimer()
    trainer = Trainer(
        **trainer_options,
        max_steps=warmup + repetitions,
        max_epochs=-1,
        logger=False,
        callbacks=[timer],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    device = trainer.strategy.root_device
    with peak_memory(device) as memory:
        loader: DataLoader[Any] = DataLoader(samples, batch_size=len(x))  # type: ignore[arg-type]
        trainer.fit(codec.train(), loader)
    times = spread(timer.seconds[warmup:])
    return {
        "seconds": {"median": times.median, "low": times.low, "high": times.high},
        "images_per_second": len(x) / times.median,
        "peak_mib": memory.mib,
    }
