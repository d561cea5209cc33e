"""Originals and reconstructions of several runs, matched by image."""

import csv
import hashlib
import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from diffcodec.metrics import all_metrics
from diffcodec.results.curves import ROWS_FILE, picture_name, safe_name
from experiments.comparison.lines import Line, Measurement


@dataclass
class Pictures:
    """The reconstructions of one test image by several codecs.

    Attributes:
        name: of the image file.
        width, height: in pixels.
        original: its path, relative to the page.
        items: `curve` (its index), `point`, `bpp`, `psnr` (None if infinite or unknown), `src`, a
            path relative to the page, `map`, the same of a map of ST-LPIPS or None, and `metrics`,
            what was measured on the image.
        map_scale: the ST-LPIPS of the brightest colour of the maps; None without maps.
    """

    name: str
    width: int
    height: int
    original: str
    items: list[dict[str, Any]] = field(default_factory=list)
    map_scale: float | None = None


def copy_pictures(curves: Sequence[Line], folder: Path, max_images: int) -> list[Pictures]:
    """Copy the runs' pictures of their first images to `folder/pictures`.

    Images are matched by the bytes of their originals, not by name.

    Args:
        curves: to compare.
        folder: of the page.
        max_images: number of images.
    """
    found: dict[str, Pictures] = {}
    for number, curve in enumerate(curves):
        for point in curve.points:
            for row in _rows(point):
                _add(found, folder, number, curve, point, row, max_images)
    return [found[key] for key in found]


def _add(
    found: dict[str, Pictures],
    folder: Path,
    number: int,
    curve: Line,
    point: Measurement,
    row: dict[str, str],
    max_images: int,
) -> None:
    assert point.run.folder is not None
    name = row["name"]
    file = f"{picture_name(int(row['index']), name)}.png"
    original, decoded = (
        point.run.folder / "reconstructions" / folder_name / file
        for folder_name in ("original", safe_name(point.name))
    )
    if not (original.is_file() and decoded.is_file()):
        return
    key = hashlib.sha256(original.read_bytes()).hexdigest()
    if key not in found:
        if len(found) >= max_images:
            return
        target = Path("pictures") / f"{len(found):02d}-{_safe(Path(name).stem)}" / "original.png"
        with Image.open(original) as image:
            found[key] = Pictures(name, *image.size, _copy(original, folder, target))
    target = Path(found[key].original).with_name(f"{number:02d}-{_safe(curve.family)}-")
    target = target.with_name(f"{target.name}{_safe(point.name)}.png")
    found[key].items.append(
        {
            "curve": number,
            "point": point.name,
            "bpp": float(row["bpp"]),
            "psnr": _number(row.get("psnr-rgb") or row.get("psnr")),
            "src": _copy(decoded, folder, target),
            "map": None,
            "metrics": {
                key: value
                for key in all_metrics()
                if key != "bpp-payload" and (value := _number(row.get(key))) is not None
            },
        }
    )


def _rows(point: Measurement) -> list[dict[str, str]]:
    """The rows of `images.csv` at one operating point; empty if the file does not exist."""
    if point.run.folder is None or point.run.published:
        return []
    path = point.run.folder / ROWS_FILE
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row.get("point") == point.name]


def _copy(source: Path, folder: Path, target: Path) -> str:
    (folder / target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, folder / target)
    return target.as_posix()


def _safe(name: str) -> str:
    # Also part of a URL: no characters that need escaping.
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)


def _number(text: str | None) -> float | None:
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None
