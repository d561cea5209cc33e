"""Stops a training that has diverged."""

from collections import deque
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from callbacks.checkpoints import Checkpoints

SHOWN = 16  # files of a batch


class StopAtNonFinite(Callback):
    """Stops training at the first loss that is NaN or Inf, before it changes the weights.

    Raises:
        ValueError: the loss is NaN or Inf; the message names the step, the files of this batch and
            of the one before, whose gradients may be the cause, and the last good checkpoint.
    """

    def __init__(self) -> None:
        self._names: deque[list[str]] = deque(maxlen=2)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Mapping[str, Any], batch_idx: int
    ) -> None:
        self._names.append([str(name) for name in batch.get("name", [])])

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        value = float(loss.detach())
        if abs(value) < float("inf"):
            return
        *before, names = map(_listed, self._names)
        files = f"in a batch of {names}" + "".join(f", after one of {b}" for b in before)
        raise ValueError(
            f"the loss of step {trainer.global_step + 1} is {value} {files}. {_last_good(trainer)}"
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "unnamed images") + more


def _last_good(trainer: Trainer) -> str:
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Checkpoints) and callback.last_step:
            return (
                f"The last good checkpoint, of step {callback.last_step}, is "
                f"ckpt_path={callback.last}; a smaller learning rate or trainer.gradient_clip_val "
                "may help"
            )
    return "No checkpoint was written before; a smaller learning rate may help"
