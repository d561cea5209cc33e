"""What processes that train together need: noise of their own, and one end for all."""

import signal
import threading

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

_STRIDE = 0x9E3779B1  # neighbouring seeds of runs are not those of processes
GRACE_SECONDS = 20.0
"""For a process that failed first to say why."""


class Processes(Callback):
    """Gives each process noise of its own, and ends the others when the first one fails.

    Lightning seeds all processes alike. Without this they would draw the same noise and the same
    timesteps for different images, and a step over eight processes would have an eighth of them.

    The first process started the others and looks after them: it is ended with any that fails, by
    Lightning, within seconds. What Lightning does not do is to end the others when the first one
    fails, which would wait in an exchange for half an hour.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Before checkpoints restore what the processes of a run that goes on had.
        if trainer.global_rank:
            # A CPU's generator takes 32 bits of a seed.
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
                except Exception:  # it still waits for this one
                    process.send_signal(signal.SIGKILL)

        # A thread that the interpreter waits for at its end: this process may say what was wrong.
        threading.Thread(target=end).start()
