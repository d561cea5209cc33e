"""Originals and reconstructions of several runs, paired by the image that they show."""

import csv
import hashlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from diffcodec.results.curves import ROWS_FILE, picture_name, safe_name
from experiments.comparison.lines import Line, Measurement


@dataclass
class Pictures:
    """One test image as several codecs return it.

    Attributes:
        name: of the image file.
        width, height: in pixels.
        original: its path, relative to the page.
        items: `curve` (its number), `point`, `bpp`, `psnr` (None if infinite or unknown) and `src`,
            a path relative to the page.
    """

    name: str
    width: int
    height: int
    original: str
    items: list[dict[str, Any]] = field(default_factory=list)


def copy_pictures(curves: Sequence[Line], folder: Path, max_images: int) -> list[Pictures]:
    """Copy what the runs left of their first images into `folder/pictures`.

    Images are the same where their originals are, byte by byte: names alone may lie.

    Args:
        curves: what is compared.
        folder: of the page.
        max_images: how many images of the set.
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
        }
    )


def _rows(point: Measurement) -> list[dict[str, str]]:
    """The lines of `images.csv` at one operating point; none where there is no such file."""
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
    # Part of an address, too: no character that would have to be escaped there.
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)


def _number(text: str | None) -> float | None:
    return float(text) if text and text != "inf" else None
