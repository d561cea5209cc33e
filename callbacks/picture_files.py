"""Where a run's pictures lie: `reconstructions/original` and a folder per operating point."""

import re
from pathlib import Path

FOLDER = "reconstructions"


def original_file(run: Path, index: int, name: str) -> Path:
    """The image of that dataset index and file name, as it was coded."""
    return run / FOLDER / "original" / f"{_stem(index, name)}.png"


def reconstruction_file(run: Path, point: str, index: int, name: str) -> Path:
    """The same image as it was decoded at an operating point."""
    return point_folder(run, point) / f"{_stem(index, name)}.png"


def point_folder(run: Path, point: str) -> Path:
    """The folder of an operating point's pictures."""
    return run / FOLDER / _safe(point)


def _stem(index: int, name: str) -> str:
    return f"{index:04d}-{_safe(Path(name).stem)}"


def _safe(name: str) -> str:
    return re.sub(r"[^\w=.,-]+", "_", name)
