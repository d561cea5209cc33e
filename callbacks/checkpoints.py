"""Checkpoints from which training resumes exactly."""

import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.distributed.tensor import DTensor

from diffcodec.results.gathering import gather_all

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
MIN_SECONDS = 10.0
"""Between two checkpoints, however quickly they are written."""

_STATES = "random_states"


class Checkpoints(Checkpoint):
    """Writes `last.ckpt` between two training steps and keeps the previous one as `previous.ckpt`.

    A checkpoint is written at fixed intervals of time or steps, at the end of fitting, and earlier
    if writing is cheap. It is written atomically: to a temporary name, then renamed.

    Besides Lightning's state it contains the states of all random generators of every process.
    Validation restores them, so a resumed run need not repeat it.

    Args:
        folder: of the files.
        every_minutes: minutes between checkpoints; null: by steps only.
        every_n_steps: optimizer steps between checkpoints; null: by time only.
        max_overhead: share of the time that writing may take before `every_minutes` have passed. At
            0.02, a checkpoint that took 0.5 s to write is written again after 25 s.

    Raises:
        ValueError: a number is not positive.
    """

    def __init__(
        self,
        folder: str,
        *,
        every_minutes: float | None = 10,
        every_n_steps: int | None = None,
        max_overhead: float = 0.02,
    ) -> None:
        for name, value in (("every_minutes", every_minutes), ("every_n_steps", every_n_steps)):
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive or null, got {value}")
        if not 0 <= max_overhead <= 1:
            raise ValueError(f"max_overhead must be in [0, 1], got {max_overhead}")
        self.folder = Path(folder)
        self.every_seconds = None if every_minutes is None else 60 * every_minutes
        self.every_n_steps = every_n_steps
        self.max_overhead = max_overhead
        self._written = time.monotonic()
        self._writing_seconds: float | None = None
        self._step = 0
        self.last_step = 0
        """The step of the newest checkpoint that this process has written; 0 before the first."""
        self._states: list[dict[str, Any]] | None = None
        self._before_validation: dict[str, Any] | None = None

    @property
    def last(self) -> Path:
        """The path of the newest checkpoint of this run, which may not exist."""
        return self.folder / LAST

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._written, self._step = time.monotonic(), trainer.global_step
        if self._states is None:
            return
        if len(self._states) == trainer.world_size:
            _set_random_state(self._states[trainer.global_rank], pl_module.device)
        else:
            rank_zero_warn(
                f"the checkpoint is from {len(self._states)} processes, training resumes with "
                f"{trainer.world_size}: random numbers differ from an uninterrupted run"
            )
        self._states = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step == self._step:
            return  # gradients are being accumulated
        self._step = trainer.global_step
        by_steps = self.every_n_steps is not None and self._step % self.every_n_steps == 0
        if by_steps or (self.every_seconds is not None and self._is_time(trainer)):
            self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Write `last.ckpt`; all processes call it between two steps.

        Raises:
            ValueError: a weight is NaN or Inf; nothing is written.
        """
        start = time.monotonic()
        _check_finite(trainer)
        partial = self.folder / f"{LAST}.part"
        trainer.save_checkpoint(partial, weights_only=False)
        if trainer.is_global_zero:
            _sync(partial)
            # If the run is killed between the two renames, the previous checkpoint remains.
            _move(self.last, self.folder / PREVIOUS)
            _move(partial, self.last)
        self.last_step = trainer.global_step
        self._written = time.monotonic()
        self._writing_seconds = self._written - start

    def _is_time(self, trainer: Trainer) -> bool:
        since = time.monotonic() - self._written
        due = since >= (self.every_seconds or 0)
        if self._writing_seconds is None:  # the first checkpoint measures how long writing takes
            due = due or since >= MIN_SECONDS
        elif self.max_overhead:
            due = due or since >= max(MIN_SECONDS, self._writing_seconds / self.max_overhead)
        # The clocks of the processes differ; the first process decides.
        return bool(trainer.strategy.broadcast(due))

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[_STATES] = gather_all([_random_state(pl_module.device)])

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._states = checkpoint.get(_STATES)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._before_validation = _random_state(pl_module.device)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._before_validation is not None:
            _set_random_state(self._before_validation, pl_module.device)
            self._before_validation = None


def _check_finite(trainer: Trainer) -> None:
    wrong = [
        name
        for name, parameter in trainer.lightning_module.named_parameters()
        if not bool(_own(parameter).isfinite().all())
    ]
    # With sharding, a process has only a part of the weights.
    if not trainer.strategy.reduce_boolean_decision(not wrong, all=True):
        told = wrong[0] if wrong else "a weight of another process"
        raise ValueError(
            f"after step {trainer.global_step} {told} contains NaN or Inf: no checkpoint is "
            "written, the previous one is kept"
        )


def _own(parameter: Tensor) -> Tensor:
    tensor = parameter.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _random_state(device: torch.device) -> dict[str, Any]:
    """The states of this process's generators, in types that load with `weights_only`."""
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(numbers), gauss],
        "numpy": [kind, keys.tolist(), position, has_gauss, cached],  # type: ignore[union-attr]
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["torch"].cpu())
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def _sync(path: Path) -> None:
    """Wait until a file, or the files of a folder, are on disk."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())


def _move(source: Path, target: Path) -> None:
    if not source.exists():
        return
    if target.is_dir():  # as strategies that shard write them
        shutil.rmtree(target)
    source.replace(target)
