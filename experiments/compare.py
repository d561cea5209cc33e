"""Compare codecs: the curves of several runs in figures, a table and a page.

    python -m experiments.compare FILE… [--wandb ENTITY/PROJECT --group NAME] [--anchor NAME] …

FILE is a curve.json, a folder or a glob of them, or a published curve in CompressAI's results
schema. NAME=FILE sets its name in the legend.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffcodec.results.curves import CURVE_FILE, ROWS_FILE, safe_name
from experiments.cli import fail
from experiments.comparison.bjontegaard_delta import METHODS
from experiments.comparison.compatibility import check
from experiments.comparison.datasets import by_dataset, side_by_side
from experiments.comparison.lines import Line, join
from experiments.comparison.render import TABLE_FILES, to_csv, to_rich, write_table
from experiments.comparison.runs import Run, find_runs, read_file
from experiments.comparison.table import RATE_OF, Table, all_deltas, build_table, find_anchor
from experiments.extras import require

MIN_WIDTH = 180  # of a table that is written to a file


def compare(options: argparse.Namespace) -> None:
    """Read, join, check, draw and write the curves; print the table and the paths.

    Raises:
        ValueError: there is nothing to compare, or the curves cannot be compared.
    """
    for option in ("wandb", "log"):
        if getattr(options, option):
            require("wandb", f"--{option}")
    runs = read_runs(options)
    groups = by_dataset(runs) if options.by_dataset else {"": runs}
    for dataset in groups:
        _refuse_folder_of_a_run(Path(options.output, safe_name(dataset)))
    prepared = {dataset: _prepare(group, options) for dataset, group in groups.items()}
    for dataset, (curves, table) in prepared.items():
        _write(curves, table, Path(options.output, safe_name(dataset)), options)
    if options.by_dataset:
        together = side_by_side({dataset: table for dataset, (_, table) in prepared.items()})
        write_table(together, Path(options.output))
        _show(together, [Path(options.output, name) for name in TABLE_FILES])


def _refuse_folder_of_a_run(output: Path) -> None:
    """Refuse an output folder that holds measurements."""
    if any((output / name).exists() for name in (CURVE_FILE, ROWS_FILE)):
        raise ValueError(f"{output} is a run folder: pass another --output")


def read_runs(options: argparse.Namespace) -> list[Run]:
    """The runs of the command line.

    Raises:
        ValueError: it names none, or one cannot be read.
    """
    runs = find_runs(options.files)
    if options.wandb:
        from experiments.comparison.wandb_runs import wandb_runs

        runs += wandb_runs(options.wandb, options.group)
    if not runs:
        raise ValueError("nothing to compare: pass curve.json files, or --wandb ENTITY/PROJECT")
    return runs


def _prepare(runs: Sequence[Run], options: argparse.Namespace) -> tuple[list[Line], Table]:
    curves, remarks = join(runs, options.by)
    for entry in options.ceiling:
        name, _, file = entry.partition("=")
        curve = find_anchor(curves, name)
        points = read_file(Path(file)).curve.metrics
        best = max(points, key=lambda metrics: metrics.get(RATE_OF, 0.0))
        curves[curves.index(curve)] = replace(curve, ceiling={**curve.ceiling, **best})
    curves = check(curves, rate=options.rate, allow=options.allow)
    anchor = find_anchor(curves, options.anchor)
    table = build_table(curves, anchor, method=options.method, rate=options.rate)
    table.warnings[:0] = remarks
    return curves, table


def _write(curves: Sequence[Line], table: Table, folder: Path, options: argparse.Namespace) -> None:
    from experiments.comparison.figures import draw_all
    from experiments.comparison.html_page import write_page
    from experiments.comparison.pictures import copy_pictures
    from experiments.comparison.strips import draw_strips

    anchor = find_anchor(curves, options.anchor)
    write_table(table, folder)
    (folder / "deltas.csv").write_text(
        to_csv(all_deltas(curves, anchor, options.rate)), encoding="utf-8"
    )
    (folder / "curves.json").write_text(
        json.dumps(joined(curves), indent=2) + "\n", encoding="utf-8"
    )
    figures = draw_all(curves, folder, rate=options.rate, at=options.at)
    pictures = copy_pictures(curves, folder, options.images)
    if options.maps:
        from experiments.comparison.maps import draw_maps

        draw_maps(pictures, folder)
    if options.x:
        from experiments.comparison.lines_over import draw_over

        figures += draw_over(curves, options.x, folder, by=options.by)
    strips = draw_strips(curves, pictures, folder, options.strip)
    write_page(folder / "index.html", curves, table, pictures, options.rate)
    names = ("index.html", "overview.png", *TABLE_FILES, "deltas.csv")
    over = [path for path in figures if path.name.startswith(("over_", "grid."))]
    _show(table, [*(folder / name for name in names), *over, *strips])
    if options.log:
        print(f"  W&B: {_log(options, curves, table, figures, folder)}")


def _show(table: Table, files: Sequence[Path]) -> None:
    from experiments.terminal import table_console

    console = table_console(MIN_WIDTH)
    console.print(to_rich(table))
    for warning in table.warnings:
        console.print(f"warning: {warning}", highlight=False, markup=False, style="yellow")
    for file in files:
        console.print(f"  {file}", highlight=False, markup=False)


def joined(curves: Sequence[Line]) -> list[dict[str, Any]]:
    """The curves as JSON data in CompressAI's results schema, with their sources."""
    data = []
    for curve in curves:
        names = dict.fromkeys(metric for point in curve.points for metric in point.metrics)
        meta = {
            "points": [point.point.to_json() for point in curve.points],
            "runs": [point.run.source for point in curve.points],
            "marks": list(curve.marks),
            "ceiling": dict(curve.ceiling),
        }
        results = {name: [point.metrics.get(name) for point in curve.points] for name in names}
        data.append({"name": curve.name, "meta": meta, "results": results})
    return data


def _log(
    options: argparse.Namespace,
    curves: Sequence[Line],
    table: Table,
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
    """Build the parser of the command line."""
    out = argparse.ArgumentParser(
        prog="python -m experiments.compare",
        description=(__doc__ or "").partition("\n")[0],
        epilog="Writes figures, table.{md,tex,csv}, deltas.csv, curves.json and index.html.",
    )
    add = out.add_argument
    add("files", nargs="*", metavar="FILE", help="curve.json, folder, glob, or NAME=FILE")
    add("--wandb", metavar="ENTITY/PROJECT", help="also read the runs of this W&B project")
    add("--group", metavar="NAME", help="group of the W&B runs; default: all with a curve")
    add("--anchor", metavar="NAME", help="reference curve of BD figures; default: the first")
    add(
        "--by",
        type=_words,
        default=[],
        metavar="KEY,…",
        help="draw one curve per value of: name, run, keys of the config (codec.rho), "
        "of points (steps), or series",
    )
    add(
        "--by-dataset",
        action="store_true",
        help="compare each data set separately, side by side in one table",
    )
    add(
        "--x",
        metavar="KEY",
        help="also draw every metric over this setting of points (steps) or metric "
        "(decoding_time), one line for points that differ only in it, or by --by",
    )
    add("--rate", default="bpp", choices=("bpp", "bpp-payload"), help="the rate axis")
    add(
        *("--bd", "--method"),
        dest="method",
        default=METHODS[0],
        choices=METHODS,
        help="interpolation of BD figures; cubic is the fit of 2001; default: %(default)s",
    )
    add("--at", type=_numbers, default=[], metavar="BPP,…", help="rates of realism against PSNR")
    add(
        "--strip",
        type=_numbers,
        default=[],
        metavar="BPP,…",
        help="rates at which to show reconstructions side by side, in strip_BPP.png",
    )
    add(
        "--ceiling",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="upper bound of a curve, such as its autoencoder's curve.json",
    )
    add("--images", type=int, default=8, metavar="N", help="test images on the page; default: 8")
    add(
        "--maps",
        action="store_true",
        help="write maps of ST-LPIPS for the page; about a second per reconstruction",
    )
    add(
        "--allow",
        action="store_true",
        help="compare despite differences in data set, FID or rate, and mark them",
    )
    add("--output", default="comparison", metavar="DIR", help="default: comparison")
    add(
        "--log",
        nargs="?",
        const="diffcodec",
        metavar="PROJECT",
        help="log the result to a W&B run of type comparison",
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
    except (OSError, ValueError) as error:
        fail(error)
