"""Contact sheet: a grid with a row per image and a column per codec or operating point."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

CELL = 256  # pixels
GAP = 6
LINE = 18


def contact_sheet(
    columns: Sequence[tuple[str, Sequence[Path | Image.Image]]],
    *,
    size: int = CELL,
    crop: bool = False,
) -> Image.Image:
    """Arrange images side by side.

    Args:
        columns: pairs of a heading of up to two lines and images or their files; all columns have
            the same number of images.
        size: maximum width and height of an image in pixels; larger images are scaled down.
        crop: whether to crop images to `size` instead of scaling them down. The crop is centred
            horizontally, and a quarter of the cut height is above it.
    """
    pictures = [column for _, column in columns]
    rows = [[_cell(picture, size, crop) for picture in row] for row in zip(*pictures, strict=True)]
    heights = [max(cell.height for cell in row) for row in rows]
    head = 2 * LINE + GAP
    width = len(columns) * (size + GAP) + GAP
    sheet = Image.new("RGB", (width, head + sum(heights) + GAP * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(LINE - 5)
    for i, (heading, _) in enumerate(columns):
        left = GAP + i * (size + GAP)
        draw.multiline_text((left + size / 2, GAP), heading, "black", font, "ma", align="center")
        top = head
        for row, height in zip(rows, heights, strict=True):
            sheet.paste(row[i], (left + (size - row[i].width) // 2, top))
            top += height + GAP
    return sheet


def _cell(picture: Path | Image.Image, size: int, crop: bool) -> Image.Image:
    if isinstance(picture, Path):
        with Image.open(picture) as image:
            return _cell(image.convert("RGB"), size, crop)
    cell = picture.copy()
    if crop:
        left, top = max(0, cell.width - size) // 2, max(0, cell.height - size) // 4
        cell = cell.crop((left, top, min(left + size, cell.width), min(top + size, cell.height)))
    cell.thumbnail((size, size))
    return cell
