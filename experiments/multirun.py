"""Multiruns (`-m`): where each job runs, and the summary at the end."""

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
_failed: list[BaseException] = []  # in this process, even if nothing could be written

MIN_WIDTH = 180  # of a table that is written to a file


class Summary(Callback):
    """At the end of a multirun, prints a table of its curves and the failed runs."""

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
    from experiments.comparison.compatibility import check
    from experiments.comparison.lines import join
    from experiments.comparison.render import to_rich
    from experiments.comparison.runs import read_file
    from experiments.comparison.table import build_table
    from experiments.terminal import table_console

    curves = check(join([read_file(path) for path in paths])[0], allow=True)
    console = table_console(MIN_WIDTH)
    console.print(to_rich(build_table(curves, curves[0])))


def in_multirun() -> bool:
    """Whether this is a job of a multirun."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def leave_failure(error: BaseException) -> None:
    """Write the error to the run folder, for the summary."""
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
    """Whether Lightning would start further processes by repeating the whole multirun."""
    several = cfg.trainer.get("devices", 1) != 1 or cfg.trainer.get("num_nodes", 1) != 1
    # Under Slurm the processes already exist, one task per device.
    return in_multirun() and several and "SLURM_NTASKS" not in os.environ


def run_in_own_process() -> None:
    """Run this job by its own command, into the same folder.

    Raises:
        ValueError: it failed; its error was printed.
    """
    hydra = HydraConfig.get()
    command = [sys.executable, "-m", "experiments.run", *hydra.overrides.task]
    done = subprocess.run(
        [*command, f"hydra.run.dir={quoted(str(hydra.runtime.output_dir))}"], check=False
    )
    if done.returncode:
        raise ValueError(f"the run exited with code {done.returncode}")
