"""The W&B logger."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from experiments.credentials import wandb_mode
from experiments.extras import is_installed, require
from experiments.tracker import Tracker, keep_files_below

INIT_TIMEOUT = 30  # seconds until a run falls back to offline


def wandb_logger(
    *,
    save_dir: str,
    name: str,
    project: str,
    entity: str | None = None,
    group: str | None = None,
    job_type: str | None = None,
    tags: Sequence[str] = (),
    mode: str | None = None,
    optional: bool = False,
) -> WandbLogger | bool:
    """A W&B logger that needs no account and never stops a run.

    Args:
        save_dir: where an offline run's files go.
        name, project, entity, group, job_type, tags: as in `wandb.init`.
        mode: `online`, `offline` or `disabled`; null is online with an API key (WANDB_API_KEY or
            `wandb login`), offline without one. WANDB_MODE takes precedence.
        optional: return False, which is no logger, if the package wandb is not installed.

    Raises:
        ValueError: the mode is unknown, or wandb is not installed and not optional.
    """
    mode = wandb_mode(mode)
    if optional and not is_installed("wandb"):
        return False
    require("wandb", "logger=wandb")
    options: dict[str, Any] = {"entity": entity, "group": group, "job_type": job_type}
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    keep_files_below(save_dir)
    return Tracker(
        name=name,
        save_dir=save_dir,
        project=project,
        tags=list(tags),
        mode=mode,
        log_model=False,
        settings={"silent": mode == "offline", "init_timeout": INIT_TIMEOUT},
        **options,
    )


def describe(logger: WandbLogger) -> str:
    """Where a W&B run is stored, and how to upload an offline one."""
    run = logger.experiment
    if getattr(run, "disabled", False):
        return "disabled"
    if run.offline:
        folder = Path(run.dir).parent
        return f"{folder} (offline; upload it with: wandb sync {shlex.quote(str(folder))})"
    return str(run.url)
