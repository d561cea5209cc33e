"""Finds the stopped run of a command, which the same command resumes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig

from experiments.run_folder import default_folder

_OVERRIDES = Path(".hydra") / "overrides.yaml"
# Keys that may change on resuming, because they affect neither training nor measuring.
_MAY_DIFFER = ("ckpt_path=last", "datamodule.on_error=", "hydra.")


def find_unfinished(arguments: Sequence[str], cfg: DictConfig) -> Iterator[Path]:
    """The folders of stopped runs of these arguments, the newest first.

    A run is stopped if its evaluation is incomplete or, with `ckpt_path=last`, if it has a
    checkpoint. Only default folders of runs of this name are searched. A process may still run
    there.
    """
    wanted = _lasting(arguments)
    folders = [path.parents[1] for path in default_folder(cfg).parent.glob(f"*/{_OVERRIDES}")]
    for folder in sorted(folders, reverse=True):
        if _lasting(_read(folder / _OVERRIDES)) != wanted:
            continue
        if _is_stopped(folder, trains=bool(cfg.fit), last=cfg.ckpt_path == "last"):
            yield folder


def _is_stopped(folder: Path, *, trains: bool, last: bool) -> bool:
    from callbacks.measurements import FOLDER

    measured, trained = (folder / FOLDER).is_dir(), (folder / "checkpoints").is_dir()
    return trained and last if trains else measured


def _lasting(overrides: Sequence[str]) -> list[str]:
    return sorted(override for override in overrides if not override.startswith(_MAY_DIFFER))


def _read(path: Path) -> list[str]:
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return ["unreadable"]
    return [str(override) for override in data] if isinstance(data, list) else ["unreadable"]
