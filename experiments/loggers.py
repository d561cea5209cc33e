"""Loggers that need more than a class and its arguments."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from experiments.credentials import wandb_mode

MAX_TAG = 64  # characters, W&B's limit


def wandb_logger(
    *,
    save_dir: str,
    name: str,
    project: str,
    entity: str | None = None,
    group: str | None = None,
    job_type: str | None = None,
    tags: Sequence[str] = (),
    rate: Sequence[Any] = (),
    mode: str | None = None,
) -> WandbLogger:
    """A W&B logger that needs no account.

    Args:
        save_dir: where an offline run's files go.
        name, project, entity, group, job_type, tags: as in `wandb.init`.
        rate: settings of the rate; the first that is not null becomes a tag, `rate=…`.
        mode: `online`, `offline` or `disabled`; null is online with an API key (WANDB_API_KEY or
            `wandb login`), offline without one. WANDB_MODE goes first.

    Raises:
        ValueError: an unknown mode.
    """
    mode = wandb_mode(mode)
    given = [value for value in rate if value is not None]
    tags = [*tags, *(f"rate={_brief(value)}"[:MAX_TAG] for value in given[:1])]
    options: dict[str, Any] = {"entity": entity, "group": group, "job_type": job_type}
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    return WandbLogger(
        name=name,
        save_dir=save_dir,
        project=project,
        tags=tags,
        mode=mode,
        log_model=False,
        settings={"silent": mode == "offline"},
        **options,
    )


def _brief(value: Any) -> str:
    """A rate as a tag: of several the first and the last."""
    if isinstance(value, str | int | float):
        return str(value)
    values = [str(entry) for entry in value]
    return values[0] if len(values) == 1 else f"{values[0]}…{values[-1]}"


def describe(logger: WandbLogger) -> str:
    """Where a W&B run lies, and how to get an offline one to the server."""
    run = logger.experiment
    if run.offline:
        folder = Path(run.dir).parent
        return f"{folder} (offline; upload it with: wandb sync {folder})"
    return str(run.url)
