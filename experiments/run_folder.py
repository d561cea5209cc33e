"""The folder of a run: new or resumed, and locked for the lifetime of its process."""

import json
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from itertools import count
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.overrides import quoted, run_folder

LOCK = ".running"
OWNER = ".running.json"

_started: set[Path] = set()
_held: dict[Path, BaseFileLock] = {}  # for the lifetime of this process


def choose_folder(arguments: Sequence[str], cfg: DictConfig | None) -> list[str]:
    """Add the folder of a run to its command line, and lock it.

    It is the folder of a stopped run of the same command (see `experiments.unfinished`), or a new
    one. A folder that the command line names is locked. A multirun also gets its own folder.

    Args:
        arguments: of the command line.
        cfg: their config; None if it is not a single run.

    Raises:
        ValueError: another process runs in the folder that the command line names.
    """
    from experiments.unfinished import find_unfinished

    arguments = list(arguments)
    if cfg is None:
        return arguments + _of_multirun(arguments)
    given = run_folder(arguments)
    if given is not None:
        hold(Path(given))
        return arguments
    default = default_folder(cfg)
    if "LOCAL_RANK" in os.environ:
        return arguments  # one of several processes of a run, which Lightning or torchrun started
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        # The tasks cannot agree otherwise, and a requeued job resumes in its folder.
        step = (os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_STEP_ID", "0"))
        folder = default.with_name(f"slurm-{'-'.join(step)}")
        hold(folder)
        return [*arguments, _setting(folder)]
    for folder in find_unfinished(arguments, cfg):
        if is_held(folder):
            print(f"resuming in {folder}, where this command was stopped", file=sys.stderr)
            return [*arguments, _setting(folder)]
    folder = make_new(default)
    hold(folder)
    return [*arguments, _setting(folder)]


def _setting(folder: Path) -> str:
    return f"hydra.run.dir={quoted(str(folder))}"


def _of_multirun(arguments: Sequence[str]) -> list[str]:
    from experiments.sweep_overrides import is_multirun

    if not is_multirun(arguments):
        return []
    given = run_folder(arguments, "hydra.sweep.dir")
    if given is not None:
        if "${" not in given:  # check that it is writable, before Hydra fails with a traceback
            Path(given).mkdir(parents=True, exist_ok=True)
        return []
    from experiments.cli import compose_config

    folder = make_new(Path(str(compose_config([]).hydra.sweep.dir)))
    return [f"hydra.sweep.dir={quoted(str(folder))}"]


def default_folder(cfg: DictConfig) -> Path:
    """The default folder of a run, named after the current second."""
    hydra = HydraConfig.instance()
    before = hydra.cfg
    hydra.set_config(cfg)  # which the folder's name is made of
    try:
        return Path(str(cfg.hydra.run.dir))
    finally:
        hydra.cfg = before


def make_new(folder: Path) -> Path:
    """Create a folder that does not exist: this one, or with the suffix `-1`, `-2`, …."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in count():
        path = folder.with_name(f"{folder.name}-{number}") if number else folder
        with suppress(FileExistsError):
            path.mkdir()
            return path
    raise AssertionError


def start(folder: Path) -> None:
    """Start a run in its folder, and lock it if it is not locked.

    Raises:
        ValueError: another process runs there, or another job of this multirun ran there.
    """
    hold(folder)
    if folder.resolve() in _started:
        raise ValueError(f"two jobs of this multirun share {folder}: change hydra.sweep.subdir")
    _started.add(folder.resolve())


def hold(folder: Path) -> None:
    """Lock the run folder for the lifetime of this process, the first one of its run.

    Raises:
        ValueError: another process runs there; the message names it.
    """
    if _is_first() and not is_held(folder):
        raise ValueError(
            f"{_owner(folder)} runs in {folder}: wait for it, stop it, or pass another "
            "hydra.run.dir=FOLDER"
        )


def is_held(folder: Path) -> bool:
    """Try to lock a run folder; returns whether this process holds the lock."""
    folder.mkdir(parents=True, exist_ok=True)
    key = folder.resolve()
    if key in _held:
        return True
    lock = FileLock(key / LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    _held[key] = lock
    started = datetime.now().isoformat(" ", "seconds")
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
    (key / OWNER).write_text(json.dumps(owner) + "\n", encoding="utf-8")
    return True


def _owner(folder: Path) -> str:
    try:
        owner = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']}, started at {owner['started']},"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _is_first() -> bool:
    ranks = ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID")
    return all(os.environ.get(rank, "0") == "0" for rank in ranks)
