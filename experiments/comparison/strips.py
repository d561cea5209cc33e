"""Strips: the original and the reconstructions of all codecs at about one rate."""

import math
from collections.abc import Sequence
from pathlib import Path

from diffcodec.results.contact_sheet import contact_sheet
from experiments.comparison.lines import Line, Measurement
from experiments.comparison.pictures import Pictures

MOST_IMAGES = 3
FARTHEST = 1.5  # factor on the rate; points farther off are not shown


def draw_strips(
    curves: Sequence[Line], pictures: Sequence[Pictures], folder: Path, rates: Sequence[float]
) -> list[Path]:
    """Write `strip_RATE.png` for each rate: one row per image, one column per codec.

    Pictures are 256x256 crops of each image at full resolution. Headings show the mean rate over
    the data set. Codecs whose nearest operating point is more than 1.5 times higher or lower, or
    that left no pictures, have no column.

    Args:
        curves: to compare.
        pictures: from `copy_pictures`.
        folder: of the comparison.
        rates: in bits per pixel.

    Returns:
        The files; none for a rate that no codec is near.
    """
    written = []
    for rate in rates:
        columns: list[tuple[str, list[Path]]] = []
        rows = pictures[:MOST_IMAGES]
        for number, curve in enumerate(curves):
            point = _nearest(curve, rate)
            found = [_file(row, number, point) for row in rows] if point else []
            if point and all(found) and found:
                heading = f"{curve.name}\n{point.metrics['bpp']:.3g} bpp"
                columns.append((heading, [folder / str(file) for file in found]))
        if columns:
            originals = ("original\n", [folder / row.original for row in rows])
            written.append(folder / f"strip_{rate:g}.png")
            contact_sheet([originals, *columns], crop=True).save(written[-1])
    return written


def _nearest(curve: Line, rate: float) -> Measurement | None:
    """The operating point with the nearest mean rate, if it is near enough."""

    def distance(point: Measurement) -> float:
        return abs(math.log(point.metrics["bpp"] / rate))

    nearest = min(curve.points, key=distance)
    return nearest if distance(nearest) <= math.log(FARTHEST) else None


def _file(row: Pictures, number: int, point: Measurement) -> str | None:
    sources = (item["src"] for item in row.items if _is_of(item, number, point))
    return next(sources, None)


def _is_of(item: dict[str, object], number: int, point: Measurement) -> bool:
    return item["curve"] == number and item["point"] == point.name
