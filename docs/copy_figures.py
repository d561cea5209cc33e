"""Copy figures of docs/results.md into the other pages and the model cards that repeat them.

    python docs/copy_figures.py            rewrite the copies
    python docs/copy_figures.py --check    only say which differ, and leave with 1

The tables of docs/results.md are the one place where figures are edited. A row of another table is
a copy if its first cell is that of a row there; the cells under the same headings are replaced.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "docs" / "results.md"
COPIES = [
    ROOT / "README.md",
    ROOT / "docs" / "measuring.md",
    *sorted(ROOT.glob("codecs/diffcodec/*/weights/*/README.md")),
]


def cells(line: str) -> list[str]:
    """The cells of a row of a Markdown table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def tables(text: str) -> Iterator[tuple[list[str], list[str]]]:
    """Headings and rows of each table of a page."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        heading, _, *rows = block.splitlines()
        yield cells(heading), rows


def figures(text: str) -> dict[str, dict[str, str]]:
    """First cell of a row -> heading -> figure, of all tables of a page."""
    found: dict[str, dict[str, str]] = {}
    for headings, rows in tables(text):
        for first, *values in map(cells, rows):
            found[first] = dict(zip(headings[1:], values, strict=True))
    return found


def updated(text: str, known: dict[str, dict[str, str]]) -> str:
    """A page with the copies in its tables replaced by the figures that are known."""
    for headings, rows in tables(text):
        for row in rows:
            first, *values = cells(row)
            if first not in known:
                continue
            pairs = zip(headings[1:], values, strict=True)
            new = [known[first].get(heading, value) for heading, value in pairs]
            text = text.replace(
                row,
                "|".join(f" {cell} " if cell else " " for cell in ["", first, *new, ""]).strip(),
            )
    return text


def main(arguments: list[str]) -> int:
    """Rewrite or check the copies; 1 where a checked one differs."""
    known = figures(SOURCE.read_text(encoding="utf-8"))
    differing = []
    for path in COPIES:
        text = path.read_text(encoding="utf-8")
        new = updated(text, known)
        if new != text:
            differing.append(str(path.relative_to(ROOT)))
            if "--check" not in arguments:
                path.write_text(new, encoding="utf-8")
    for name in differing:
        print(name)
    return 1 if differing and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
