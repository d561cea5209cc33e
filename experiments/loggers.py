"""Loggers that need more than a class and its arguments."""

import logging
import netrc
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch.loggers import WandbLogger

log = logging.getLogger(__name__)


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
) -> WandbLogger:
    """A W&B logger that needs no account.

    Args:
        save_dir: where an offline run's files go.
        name, project, entity, group, job_type, tags: as in `wandb.init`.
        mode: `online`, `offline` or `disabled`; null is online with an API key (WANDB_API_KEY or
            `wandb login`), offline without one. WANDB_MODE goes first.

    Raises:
        ValueError: an unknown mode.
    """
    mode = os.environ.get("WANDB_MODE") or mode or ("online" if has_api_key() else "offline")
    modes = ("online", "offline", "disabled", "shared")
    if mode not in modes:
        raise ValueError(f"unknown W&B mode {mode!r}, choose from {modes}")
    options: dict[str, Any] = {"entity": entity, "group": group, "job_type": job_type}
    Path(save_dir).mkdir(parents=True, exist_ok=True)
    return WandbLogger(
        name=name,
        save_dir=save_dir,
        project=project,
        tags=list(tags),
        mode=mode,
        log_model=False,
        settings={"silent": mode == "offline"},
        **options,
    )


def has_api_key() -> bool:
    """Whether W&B has credentials, in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = os.environ.get("NETRC") or str(Path.home() / ".netrc")
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def describe(logger: WandbLogger) -> str:
    """Where a W&B run lies, and how to get an offline one to the server."""
    run = logger.experiment
    if run.offline:
        folder = Path(run.dir).parent
        return f"{folder} (offline; upload it with: wandb sync {folder})"
    return str(run.url)
