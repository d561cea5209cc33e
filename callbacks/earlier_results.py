"""What an earlier run left in a folder, moved out of the way of a new one."""

import logging
from itertools import count
from pathlib import Path

from diffcodec.results.curves import CURVE_FILE, ROWS_FILE

log = logging.getLogger(__name__)

_FILES = (CURVE_FILE, ROWS_FILE, "curve.png", "metrics.png", "reconstructions")


def set_aside(folder: Path) -> Path | None:
    """Move curves, rows and pictures into `earlier-1/`, `earlier-2/`, …, and say so.

    Curves get the suffix `.old`, by which no comparison takes them for those of the new run. The
    curves of series are in a folder each; a run below this one has rows of its own and stays.

    Returns:
        The folder that they are in now; None where there was nothing.
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
