"""Compare codecs: curves of several runs in figures, a table and a page.

    python -m experiments.compare FILE… [--wandb ENTITY/PROJECT --group NAME] [--anchor NAME] …

FILE is a curve.json, a folder or a glob of them, or a published curve in CompressAI's results
schema; NAME=FILE gives it another name in the legend.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cli import fail
from experiments.comparison.bjontegaard_delta import METHODS
from experiments.comparison.compatibility import check
from experiments.comparison.joining import Curve, join
from experiments.comparison.runs import find_runs, read_file
from experiments.comparison.table import all_deltas, build_table, find_anchor

if TYPE_CHECKING:
    from experiments.comparison.table import Table

MIN_WIDTH = 160  # of a table that is written to a file


def compare(options: argparse.Namespace) -> None:
    """Read, join, check, draw and write; then say what was found and where it lies.

    Raises:
        ValueError: there is nothing to compare, or the curves cannot be compared.
    """
    from rich.console import Console

    from experiments.comparison.figures import draw_all
    from experiments.comparison.html_page import write_page
    from experiments.comparison.pictures import copy_pictures
    from experiments.comparison.render import (
        csv_rows,
        to_csv,
        to_latex,
        to_markdown,
        to_rich,
    )

    curves, remarks = read_curves(options)
    curves = check(curves, rate=options.rate, allow=options.allow)
    anchor = find_anchor(curves, options.anchor)
    table = build_table(curves, anchor, method=options.method, rate=options.rate)
    table.warnings[:0] = remarks
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(to_markdown(table))
    (folder / "table.tex").write_text(to_latex(table))
    (folder / "table.csv").write_text(to_csv(csv_rows(table)))
    (folder / "deltas.csv").write_text(to_csv(all_deltas(curves, anchor, options.rate)))
    (folder / "curves.json").write_text(json.dumps(joined(curves), indent=2) + "\n")
    figures = draw_all(curves, folder, rate=options.rate, at=options.at)
    pictures = copy_pictures(curves, folder, options.images)
    write_page(folder / "index.html", curves, table, pictures, options.rate)

    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console.width = max(console.width, MIN_WIDTH)
    console.print(to_rich(table))
    for warning in table.warnings:
        console.print(f"warning: {warning}", highlight=False, markup=False, style="yellow")
    for name in ("index.html", "overview.png", "table.md", "table.tex", "table.csv", "deltas.csv"):
        console.print(f"  {folder / name}", highlight=False, markup=False)
    if options.log:
        where = _log(options, curves, table, figures, folder)
        console.print(f"  W&B: {where}", highlight=False, markup=False)


def read_curves(options: argparse.Namespace) -> tuple[list[Curve], list[str]]:
    """The curves that the command line names, joined, and remarks.

    Raises:
        ValueError: it names none, or one cannot be read.
    """
    runs = find_runs(options.files)
    if options.wandb:
        from experiments.comparison.wandb_runs import wandb_runs

        runs += wandb_runs(options.wandb, options.group)
    if not runs:
        raise ValueError("nothing to compare: give curve.json files, or --wandb ENTITY/PROJECT")
    curves, remarks = join(runs, options.by)
    for entry in options.ceiling:
        name, _, file = entry.partition("=")
        curve = find_anchor(curves, name)
        best = max(read_file(Path(file)).points, key=lambda point: point[1].get("psnr-rgb", 0.0))
        curves[curves.index(curve)] = replace(curve, ceiling={**curve.ceiling, **best[1]})
    return curves, remarks


def joined(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """The curves as JSON data, in CompressAI's results schema, with what they were joined from."""
    data = []
    for curve in curves:
        names = dict.fromkeys(metric for point in curve.points for metric in point.metrics)
        meta = {
            "points": [point.name for point in curve.points],
            "runs": [point.run.source for point in curve.points],
            "marks": list(curve.marks),
            "ceiling": dict(curve.ceiling),
        }
        results = {name: [point.metrics.get(name) for point in curve.points] for name in names}
        data.append({"name": curve.name, "meta": meta, "results": results})
    return data


def _log(
    options: argparse.Namespace,
    curves: Sequence[Curve],
    table: "Table",
    figures: Sequence[Path],
    folder: Path,
) -> str:
    import wandb

    from experiments.comparison.wandb_runs import JOB_TYPE, log_comparison
    from experiments.credentials import wandb_mode

    entity, _, project = (options.wandb or options.log).rpartition("/")
    run = wandb.init(
        dir=str(folder),
        entity=entity or None,
        project=project,
        group=options.group,
        job_type=JOB_TYPE,
        name=table.title,
        mode=wandb_mode(),
        config={"files": options.files, "anchor": options.anchor, "by": options.by},
        settings=wandb.Settings(silent=True),
    )
    log_comparison(run, curves, table, figures, folder / "index.html")
    where = str(Path(run.dir).parent) if run.offline else str(run.url)
    run.finish()
    return where


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        prog="python -m experiments.compare",
        description=(__doc__ or "").partition("\n")[0],
        epilog="Writes figures, table.{md,tex,csv}, deltas.csv, curves.json and index.html.",
    )
    add = out.add_argument
    add("files", nargs="*", metavar="FILE", help="curve.json, folder, glob, or NAME=FILE")
    add("--wandb", metavar="ENTITY/PROJECT", help="take runs of this W&B project, too")
    add("--group", metavar="NAME", help="of the W&B runs; default: all that have a curve")
    add("--anchor", metavar="NAME", help="curve that BD figures are against; default: the first")
    add(
        "--by",
        type=_words,
        default=[],
        metavar="KEY,…",
        help="what tells curves apart: name, "
        "run, keys of the config (codec.rho), of points (steps), or series",
    )
    add("--rate", default="bpp", choices=("bpp", "bpp-payload"), help="the rate axis")
    add("--method", default=METHODS[0], choices=METHODS, help="interpolation of BD figures")
    add("--at", type=_numbers, default=[], metavar="BPP,…", help="rates of realism against PSNR")
    add(
        "--ceiling",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="the best that a curve can reach, such as its autoencoder's own curve.json",
    )
    add("--images", type=int, default=8, metavar="N", help="test images on the page; default: 8")
    add(
        "--allow",
        action="store_true",
        help="compare what differs in data set, FID or rate, and mark it",
    )
    add("--output", default="comparison", metavar="DIR", help="default: comparison")
    add(
        "--log",
        nargs="?",
        const="diffcodec",
        metavar="PROJECT",
        help="put the result into a W&B run of type comparison",
    )
    return out


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _numbers(text: str) -> list[float]:
    values = [float(word) for word in _words(text)]
    if any(value <= 0 for value in values):
        raise argparse.ArgumentTypeError(f"rates must be positive, got {text}")
    return values


if __name__ == "__main__":
    os.environ.setdefault("MPLBACKEND", "agg")
    try:
        compare(parser().parse_args(sys.argv[1:]))
    except ValueError as error:
        fail(error)
