"""A table for the terminal, in Markdown, LaTeX and CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from experiments.comparison.table import Cell, Table

if TYPE_CHECKING:
    from rich.table import Table as RichTable

MIN_NAME = 24  # characters of a curve name in a line of a narrow terminal
TABLE_FILES = ("table.md", "table.tex", "table.csv")
_LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
}


def write_table(table: Table, folder: Path) -> None:
    """Write a table as each of TABLE_FILES; creates the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(to_markdown(table), encoding="utf-8")
    (folder / "table.tex").write_text(to_latex(table), encoding="utf-8")
    (folder / "table.csv").write_text(to_csv(csv_rows(table)), encoding="utf-8")


def to_rich(table: Table) -> "RichTable":
    """For the terminal; footnotes become the caption."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable

    footnotes = "\n".join(f"[{i}] {text}" for i, text in enumerate(table.footnotes, 1))
    out = RichTable(
        title=_plain(table.title),
        title_justify="left",
        caption=_plain(footnotes),
        caption_justify="left",
        box=SIMPLE_HEAD,
    )
    for i, (_, heading) in enumerate(table.columns):
        out.add_column(
            heading,
            justify="right" if i else "left",
            no_wrap=i > 0,
            overflow="fold",
            min_width=None if i else min(MIN_NAME, max(len(row[0].text) for row in table.rows)),
        )
    for row in table.rows:
        out.add_row(*(_plain(_with_notes(cell, "[{}]")) for cell in row))
    return out


def to_markdown(table: Table) -> str:
    """A pipe table with footnotes below."""
    head = [_markdown(heading) for _, heading in table.columns]
    rows = [[replace(cell, text=_markdown(cell.text)) for cell in row] for row in table.rows]
    lines = [
        f"**{_markdown(table.title)}**",
        "",
        _pipes(head),
        _pipes(["---", *["---:"] * (len(head) - 1)]),
        *(_pipes([_with_notes(cell, "<sup>{}</sup>") for cell in row]) for row in rows),
        "",
        *(f"<sup>{i}</sup> {_markdown(text)}  " for i, text in enumerate(table.footnotes, 1)),
    ]
    return "\n".join(lines) + "\n"


def to_latex(table: Table) -> str:
    """A `tabular` with booktabs rules and footnotes as its last lines."""
    width = len(table.columns)
    lines = [
        f"% {table.title}",
        rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}",
        r"\toprule",
        " & ".join(_escaped(heading) for _, heading in table.columns) + r" \\",
        r"\midrule",
    ]
    for row in table.rows:
        lines.append(" & ".join(_latex_cell(cell) for cell in row) + r" \\")
    lines.append(r"\bottomrule")
    for i, text in enumerate(table.footnotes, 1):
        note = rf"\footnotesize $^{{{i}}}$ {_escaped(text)}"
        lines.append(rf"\multicolumn{{{width}}}{{l}}{{{note}}} \\")
    lines.append(r"\end{tabular}")
    return "\n".join(lines) + "\n"


def to_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """One line per mapping; None is an empty field."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def csv_rows(table: Table) -> list[dict[str, object]]:
    """The table's cells at full precision, and the footnotes of each row as text."""
    rows = []
    for row in table.rows:
        record: dict[str, object] = {
            key: cell.text if cell.value is None else cell.value
            for (key, _), cell in zip(table.columns, row, strict=True)
        }
        numbers = sorted({number for cell in row for number in cell.notes})
        record["notes"] = "; ".join(table.footnotes[number - 1] for number in numbers)
        rows.append(record)
    return rows


def _with_notes(cell: Cell, mark: str) -> str:
    if not cell.notes:
        return cell.text
    return f"{cell.text} {mark.format(','.join(map(str, cell.notes)))}".strip()


def _pipes(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _markdown(text: str) -> str:
    # Markdown may contain HTML.
    return text.replace("|", r"\|").replace("<", "&lt;")


def _latex_cell(cell: Cell) -> str:
    numbers = ",".join(map(str, cell.notes))
    return _escaped(cell.text) + (f"$^{{{numbers}}}$" if numbers else "")


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _plain(text: str) -> str:
    return escape(text)  # square brackets are rich's markup
