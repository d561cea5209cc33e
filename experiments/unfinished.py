"""Going on with a run that was stopped: the same command finds its folder."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.overrides import quoted

LOCK = ".running"
_OVERRIDES = Path(".hydra") / "overrides.yaml"
# What may be changed between the two: how to go on, and neither what is trained nor measured.
_MAY_DIFFER = ("ckpt_path=last", "datamodule.on_error=", "hydra.")

_held: list[IO[bytes]] = []  # open as long as this process lives


def continue_unfinished(arguments: Sequence[str], cfg: DictConfig | None) -> list[str]:
    """Add the folder of a stopped run of the same command to the command line.

    That is a run whose evaluation is not over, or with `ckpt_path=last` one that has a checkpoint,
    in the folder that runs of this name have by default, and that no process goes on with.

    Args:
        arguments: of the command line.
        cfg: what they make; None where it is no single run.
    """
    arguments = list(arguments)
    given = any(argument.startswith("hydra.run.dir=") for argument in arguments)
    # Of several processes of one run, each would look for itself, and find different ones.
    is_child = "LOCAL_RANK" in os.environ or "SLURM_NTASKS" in os.environ
    if cfg is None or given or is_child:
        return arguments
    folder = find_unfinished(arguments, cfg)
    if folder is None:
        return arguments
    print(f"going on in {folder}, where this command was stopped", file=sys.stderr)
    return [*arguments, f"hydra.run.dir={quoted(str(folder))}"]


def find_unfinished(arguments: Sequence[str], cfg: DictConfig) -> Path | None:
    """The newest folder of a stopped run of these arguments, or None."""
    hydra = HydraConfig.instance()
    before = hydra.cfg
    hydra.set_config(cfg)  # which the folder's name is made of
    try:
        parent = Path(str(cfg.hydra.run.dir)).parent
    finally:
        hydra.cfg = before
    wanted = _lasting(arguments)
    folders = [path.parents[1] for path in parent.glob(f"*/{_OVERRIDES}")]
    for folder in sorted(folders, reverse=True):
        if _lasting(_read(folder / _OVERRIDES)) != wanted:
            continue
        if _is_stopped(folder, trains=bool(cfg.fit), last=cfg.ckpt_path == "last"):
            return folder
    return None


def hold(folder: Path) -> None:
    """Show other processes, as long as this one lives, that a run goes on in this folder."""
    if "LOCAL_RANK" not in os.environ:
        file = (folder / LOCK).open("ab")
        _try_lock(file)
        _held.append(file)


def _is_stopped(folder: Path, *, trains: bool, last: bool) -> bool:
    from callbacks.measurements import FOLDER

    measured, trained = (folder / FOLDER).is_dir(), (folder / "checkpoints").is_dir()
    if not (trained and last if trains else measured):
        return False
    lock = folder / LOCK
    if not lock.is_file():
        return True
    with lock.open("ab") as file:
        return _try_lock(file)


def _lasting(overrides: Sequence[str]) -> list[str]:
    return sorted(override for override in overrides if not override.startswith(_MAY_DIFFER))


def _read(path: Path) -> list[str]:
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return ["unreadable"]
    return [str(override) for override in data] if isinstance(data, list) else ["unreadable"]


def _try_lock(file: IO[bytes]) -> bool:
    """Lock a file until it is closed or its process ends; whether nobody else has."""
    try:
        from fcntl import LOCK_EX, LOCK_NB, flock
    except ImportError:  # not everywhere
        return True
    try:
        flock(file, LOCK_EX | LOCK_NB)
    except OSError:
        return False
    return True
