"""Moves the results of an earlier run out of the way."""

import logging
from itertools import count
from pathlib import Path

from diffcodec.results.curves import CURVE_FILE, ROWS_FILE

log = logging.getLogger(__name__)

_FILES = (CURVE_FILE, ROWS_FILE, "curve.png", "metrics.png", "reconstructions")


def set_aside(folder: Path) -> Path | None:
    """Move curves, rows and pictures into `earlier-1/`, `earlier-2/`, … and log it.

    Curves get the suffix `.old`, so that no comparison reads them. Curves of series are in a folder
    each; a run in a subfolder has its own rows and is left alone.

    Returns:
        The folder that they were moved to; None if there was nothing.
    """
    found = [folder / name for name in _FILES if (folder / name).exists()]
    found += [
        path
        for path in sorted(folder.glob(f"*/{CURVE_FILE}"))
        if not (path.with_name(ROWS_FILE).exists() or path.with_name(".hydra").exists())
    ]
    if not found:
        return None
    target = next(p for n in count(1) if not (p := folder / f"earlier-{n}").exists())
    for path in found:
        moved = target / path.relative_to(folder)
        moved.parent.mkdir(parents=True, exist_ok=True)
        path.rename(moved.with_name(f"{moved.name}.old") if path.name == CURVE_FILE else moved)
        if path.parent != folder and not any(path.parent.iterdir()):
            path.parent.rmdir()
    log.warning("an earlier run's results in %s are now in %s", folder, target)
    return target
