"""Several runs by one command (`-m`): each where it can run, and what they measured at the end."""

import logging
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments.overrides import quoted

log = logging.getLogger(__name__)

FAILURE = "error.txt"
_failed: list[BaseException] = []  # in this process, also where nothing could be written

MIN_WIDTH = 180  # of a table that is written to a file


class Summary(Callback):
    """At the end of a multirun, a table of its curves and the names of the runs that failed."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(str(config.hydra.sweep.dir))
        failures = sorted(folder.rglob(FAILURE))
        curves = sorted(folder.rglob("curve.json"))
        if curves:
            summarize(curves)
            print(f"  {shlex.join([sys.executable, '-m', 'experiments.compare', str(folder)])}")
        if failures:
            lines = "\n".join(
                f"  {path.parent}: {path.read_text(encoding='utf-8').strip()}" for path in failures
            )
            sys.exit(f"error: {len(failures)} of the runs failed:\n{lines}")
        if _failed:
            sys.exit(f"error: {len(_failed)} of the runs failed, the first with: {_failed[0]}")


def summarize(paths: list[Path]) -> None:
    """Print the table that compares these curve files with the first of them."""
    from rich.console import Console

    from experiments.comparison.compatibility import check
    from experiments.comparison.lines import join
    from experiments.comparison.render import to_rich
    from experiments.comparison.runs import read_file
    from experiments.comparison.table import build_table

    curves = check(join([read_file(path) for path in paths])[0], allow=True)
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console.width = max(console.width, MIN_WIDTH)
    console.print(to_rich(build_table(curves, curves[0])))


def in_multirun() -> bool:
    """Whether this is one of several runs of a command."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def leave_failure(error: BaseException) -> None:
    """Write what went wrong into the run's folder, for the summary."""
    log.error("%s", error)
    _failed.append(error)
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = str(error).strip() or type(error).__name__
        (folder / FAILURE).write_text(f"{text}\n", encoding="utf-8")
    except OSError as reason:
        log.error("cannot write %s: %s", folder / FAILURE, reason)


def needs_own_process(cfg: DictConfig) -> bool:
    """Whether Lightning would start further processes by this very command, the sweep included."""
    several = cfg.trainer.get("devices", 1) != 1 or cfg.trainer.get("num_nodes", 1) != 1
    # Under SLURM the processes are there already: a task per device.
    return in_multirun() and several and "SLURM_NTASKS" not in os.environ


def run_in_own_process() -> None:
    """Run this job of a multirun by a command of its own, into the same folder.

    Raises:
        ValueError: it failed; what was wrong was printed.
    """
    hydra = HydraConfig.get()
    command = [sys.executable, "-m", "experiments.run", *hydra.overrides.task]
    done = subprocess.run(
        [*command, f"hydra.run.dir={quoted(str(hydra.runtime.output_dir))}"], check=False
    )
    if done.returncode:
        raise ValueError(f"the run exited with code {done.returncode}")
