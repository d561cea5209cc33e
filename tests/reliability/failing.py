"""A callback that fails on one process, in the middle of a training."""

from typing import Any

from lightning.pytorch.callbacks import Callback


class FailsOn(Callback):
    def __init__(self, rank: int, step: int = 3) -> None:
        self.rank, self.step = rank, step

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_rank == self.rank and trainer.global_step == self.step:
            raise ValueError(f"process {self.rank} cannot go on")
