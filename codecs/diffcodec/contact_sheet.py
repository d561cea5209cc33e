"""One picture of many: a row per image, a column per codec or operating point."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

CELL = 256  # pixels
GAP = 6
LINE = 18


def contact_sheet(
    columns: Sequence[tuple[str, Sequence[Path]]], *, crop: bool = False
) -> Image.Image:
    """Pictures side by side, each in 256 pixels.

    Args:
        columns: (heading of up to two lines, files) of each; all have as many files as there are
            rows.
        crop: show 256x256 pixels as they are, from the middle of the upper two thirds, in place of
            the whole picture scaled down.
    """
    files = [paths for _, paths in columns]
    rows = [[_cell(path, crop) for path in row] for row in zip(*files, strict=True)]
    heights = [max(cell.height for cell in row) for row in rows]
    head = 2 * LINE + GAP
    width = len(columns) * (CELL + GAP) + GAP
    sheet = Image.new("RGB", (width, head + sum(heights) + GAP * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(LINE - 5)
    for i, (heading, _) in enumerate(columns):
        left = GAP + i * (CELL + GAP)
        draw.multiline_text((left + CELL / 2, GAP), heading, "black", font, "ma", align="center")
        top = head
        for row, height in zip(rows, heights, strict=True):
            sheet.paste(row[i], (left + (CELL - row[i].width) // 2, top))
            top += height + GAP
    return sheet


def _cell(path: Path, crop: bool) -> Image.Image:
    with Image.open(path) as image:
        cell = image.convert("RGB")
    if crop:
        left, top = max(0, cell.width - CELL) // 2, max(0, cell.height - CELL) // 4
        cell = cell.crop((left, top, min(left + CELL, cell.width), min(top + CELL, cell.height)))
    cell.thumbnail((CELL, CELL))
    return cell
