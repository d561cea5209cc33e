"""Different noise in each training process, and a common end if one fails."""

import signal
import threading

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

_STRIDE = 0x9E3779B1  # seeds of neighbouring runs must not collide with those of processes
GRACE_SECONDS = 20.0
"""For a process that failed first to say why."""


class Processes(Callback):
    """Gives each process its own noise, and stops the others if the first one fails.

    Lightning seeds all processes alike. They would draw the same noise and timesteps for different
    images, and a step over eight processes would have an eighth of the distinct draws.

    The first process starts the others, and Lightning stops it within seconds if one of them fails.
    Lightning does not stop the others if the first one fails: they would wait in a collective
    operation for half an hour.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Before a checkpoint restores the states of a resumed run.
        if trainer.global_rank:
            # A CPU generator takes a 32-bit seed.
            seed = torch.initial_seed() + _STRIDE * trainer.global_rank
            torch.manual_seed(seed % (1 << 32))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        launcher = trainer.strategy.launcher
        if not isinstance(launcher, _SubprocessScriptLauncher) or not launcher.procs:
            return

        def end() -> None:
            for process in launcher.procs:
                try:
                    process.wait(GRACE_SECONDS)
                except Exception:  # the other process still waits for this one
                    process.send_signal(signal.SIGKILL)

        # Not a daemon thread: the interpreter waits for it, so this process can print its error.
        threading.Thread(target=end).start()
