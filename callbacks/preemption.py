"""Stops a run on a signal, between two steps and with a checkpoint."""

import logging
import signal
import threading
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from callbacks.checkpoints import Checkpoints

log = logging.getLogger(__name__)

REQUEUE = 75
"""Exit code of a run that was stopped and can go on: EX_TEMPFAIL of sysexits.h."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class Preemption(Checkpoint):
    """Stops a run on a signal after the current training step or test batch.

    Training writes a checkpoint first, on whichever process the signal arrived. An evaluation is on
    disk anyway. The run then exits with `REQUEUE`, or as usual for Ctrl-C. If another handler is
    installed for SIGUSR1 or SIGUSR2, as by submitit and Lightning to requeue a Slurm job, that
    handler runs. A second Ctrl-C stops at once.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # After Lightning, whose SIGTERM handler would make the processes wait for one another.
        self._listen()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen_no_more()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen_no_more()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._listen_no_more()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.fit_loop._should_accumulate():
            return  # a checkpoint would lose the accumulated gradients
        number = self._received or 0
        if trainer.world_size > 1:
            received = torch.tensor(number, device=pl_module.device)
            number = int(trainer.strategy.reduce(received, reduce_op="max"))
        if not number:
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Checkpoints):
                callback.save(trainer)
        trainer.strategy.barrier()
        self._stop(trainer, number)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        # Processes have different numbers of images, so each stops by itself.
        if self._received:
            self._stop(trainer, self._received)

    def _stop(self, trainer: Trainer, number: int) -> None:
        handler = self._handlers.get(number)
        self._listen_no_more()
        name = signal.Signals(number).name
        log.warning("stopped by %s after step %d", name, trainer.global_step)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if number != signal.SIGTERM and callable(handler):
            handler(number, None)
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher) and not trainer.training:
            launcher.kill(signal.SIGTERM)
        # Lightning kills the first process at once if one of its children fails.
        started = isinstance(launcher, _SubprocessScriptLauncher) or trainer.world_size == 1
        raise SystemExit(REQUEUE if trainer.is_global_zero or not started else 0)

    def _listen(self) -> None:
        self._received = None
        if threading.current_thread() is not threading.main_thread():
            return  # Python delivers signals to the main thread only
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            # SIGUSR1 and SIGUSR2 are only used for requeuing.
            ours = number in (signal.SIGTERM, signal.SIGINT) or callable(handler)
            if ours and handler != self._remember:
                self._handlers[number] = handler
                signal.signal(number, self._remember)

    def _listen_no_more(self) -> None:
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._remember:
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._handlers = {}

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._received == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number
