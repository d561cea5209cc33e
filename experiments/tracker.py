"""A W&B logger that never stops a measurement: it falls back to offline, then to nothing."""

import os
import socket
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment

from callbacks.tracking import in_one_line, never_fatal, warn_once

SERVER = "https://api.wandb.ai"
_FOLDERS = {"WANDB_CACHE_DIR": "cache", "WANDB_DATA_DIR": "data", "WANDB_ARTIFACT_DIR": "artifacts"}
_ours: dict[str, str] = {}  # variables that an earlier run of this process has set


class Tracker(WandbLogger):
    """A `WandbLogger` whose failures are one warning.

    Args:
        mode: `online`, `offline` or `disabled`. It falls back to offline if the server does not
            answer or a run cannot start, then to disabled.
        options: of `WandbLogger`.
    """

    def __init__(self, *, mode: str, **options: Any) -> None:
        super().__init__(mode=mode, **options)
        self._mode = mode

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; one that ignores everything if none can start."""
        if self._experiment is None:
            if self._mode == "online" and not is_reachable():
                warn_once("W&B", f"{_server()} does not answer: this run is logged offline")
                self._mode = "offline"
            for mode in dict.fromkeys((self._mode, "offline", "disabled")):
                try:
                    return self._start(mode)
                except Exception as error:  # its own errors, OSError, pydantic's, …
                    warn_once("W&B", f"W&B cannot run {mode} and is disabled: {in_one_line(error)}")
        return self._experiment

    def _start(self, mode: str) -> Any:
        self._wandb_init["mode"] = mode
        return WandbLogger.experiment.fget(self)  # type: ignore[attr-defined]

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        with never_fatal():
            super().log_hyperparams(params, *args, **kwargs)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with never_fatal():
            super().log_metrics(metrics, step)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        with never_fatal():
            super().after_save_checkpoint(checkpoint_callback)

    def finalize(self, status: str) -> None:
        with never_fatal():
            super().finalize(status)


def keep_files_below(folder: str) -> None:
    """Put W&B's cache and data below the run folder, unless the user's variables are set."""
    for variable, name in _FOLDERS.items():
        if os.environ.get(variable) == _ours.get(variable):
            _ours[variable] = os.environ[variable] = str(Path(folder, "wandb", name).resolve())
    # User settings are read from here; W&B fails without a home directory.
    home = os.environ.get("WANDB_CONFIG_DIR") or os.path.expanduser("~/.config")  # noqa: PTH111
    parent = next(path for path in (Path(home), *Path(home).parents) if path.exists())
    if not os.access(parent, os.W_OK):
        os.environ["WANDB_CONFIG_DIR"] = str(Path(folder, "wandb", "config").resolve())


def is_reachable(seconds: float = 5) -> bool:
    """Whether W&B's server accepts connections; behind a proxy, True."""
    return bool(getproxies()) or _in_time(_connect, seconds)


def _server() -> str:
    return os.environ.get("WANDB_BASE_URL") or SERVER


def _connect() -> None:
    address = urlparse(_server())
    port = address.port or (80 if address.scheme == "http" else 443)
    socket.create_connection((address.hostname or "", port)).close()


def _in_time(function: Callable[[], None], seconds: float) -> bool:
    """Whether a function returns in time; DNS lookups have no timeout of their own."""
    done = threading.Event()

    def attempt() -> None:
        try:
            function()
        except OSError:
            return
        done.set()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    return done.is_set()
