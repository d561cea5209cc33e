"""Several data sets in one table: each is compared separately."""

from collections.abc import Mapping, Sequence

from diffcodec.metrics import SetMetric, all_metrics, find_metric
from experiments.comparison.runs import Run
from experiments.comparison.table import RATE_OF, Cell, Table


def by_dataset(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs of each data set, in order of their first runs.

    Raises:
        ValueError: a run does not state its data set.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if "dataset" not in run.meta:
            raise ValueError(
                f"{run.source} does not state its data set: put published curves into a folder "
                "named after the data set, such as kodak/"
            )
        groups.setdefault(str(run.meta["dataset"]), []).append(run)
    return groups


def side_by_side(tables: Mapping[str, Table]) -> Table:
    """Tables of several data sets -> one table with decoding time, realism and PSNR of each.

    The columns are those of the table in "Fast Training-free Perceptual Image Compression" (2025),
    Sec. 4.2. Cells of data sets that a codec was not run on are empty.

    Args:
        tables: data set -> its table.
    """
    out = Table(f"On {', '.join(tables)}", [("name", "codec")])
    for dataset, table in tables.items():
        shown = [table.columns[i] for i in _shown(table)]
        out.columns += [(f"{dataset}/{key}", f"{dataset}: {heading}") for key, heading in shown]
        out.warnings += [f"{dataset}: {warning}" for warning in table.warnings]
    for name in dict.fromkeys(row[0].text for table in tables.values() for row in table.rows):
        cells = [Cell(name)]
        for dataset, table in tables.items():
            cells += _cells(out, table, dataset, name)
        out.rows.append(cells)
    for dataset, table in tables.items():
        used = {number for row in table.rows for cell in row for number in cell.notes}
        for number, text in enumerate(table.footnotes, 1):
            if number not in used:  # of the table as a whole
                shared = all(text in other.footnotes for other in tables.values())
                out.note(text if shared else f"{dataset}: {text}")
    return out


def _shown(table: Table) -> list[int]:
    realism = [m.key for m in all_metrics().values() if m.kind == "perception" and m.headline]
    distances = [f"bd_{key}" for key in realism if isinstance(find_metric(key), SetMetric)]
    wanted = ("decoding_time", *distances, f"bd_{RATE_OF}")
    keys = [key for key, _ in table.columns]
    return [keys.index(key) for key in wanted if key in keys]


def _cells(out: Table, table: Table, dataset: str, name: str) -> list[Cell]:
    shown = _shown(table)
    for row in table.rows:
        if row[0].text == name:
            marks = row[0].notes  # of the whole row, which contains cells of other data sets
            return [
                Cell(cell.text, _carried(out, table, dataset, (*marks, *cell.notes)), cell.value)
                for cell in (row[i] for i in shown)
            ]
    note = out.note(f"{dataset}: not run")
    return [Cell("", (note,)) for _ in shown]


def _carried(out: Table, table: Table, dataset: str, notes: Sequence[int]) -> tuple[int, ...]:
    return tuple(out.note(f"{dataset}: {table.footnotes[number - 1]}") for number in notes)
