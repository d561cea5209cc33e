"""The summary of a finished run: its points and the paths of its files."""

from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger
from rich.box import SIMPLE_HEAD
from rich.table import Table

from callbacks.curves import RateCurves
from callbacks.tracking import never_fatal
from diffcodec.measuring import PointResult
from diffcodec.metrics import ordered
from experiments.loggers import describe
from experiments.terminal import table_console

MIN_WIDTH = 120  # of a table that is written to a file


def report(trainer: Trainer) -> None:
    """Print the table of points and the paths of the run's files, on rank 0."""
    if not trainer.is_global_zero:
        return
    console = table_console(MIN_WIDTH)
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    for curves in (c for c in callbacks if isinstance(c, RateCurves)):
        console.print(table(curves.name, curves.results))
    for path in written(Path(trainer.default_root_dir)):
        console.print(f"  {path}", highlight=False)
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            with never_fatal():
                console.print(f"  W&B: {describe(logger)}", highlight=False)
                logger.experiment.finish()


def table(title: str, results: list[PointResult]) -> Table:
    """One row per operating point, one column per metric."""
    keys = dict.fromkeys(key for result in results for key in result.metrics)
    # Other rates, such as bpp-payload, are in curve.json.
    metrics = [m for m in ordered(keys) if m.key == "bpp" or m.kind != "rate"]
    skipped = len(results[-1].skipped) if results else 0
    if skipped:
        title = f"{title} ({skipped} of {skipped + len(results[-1].rows)} images skipped)"
    out = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    out.add_column("point", justify="left", no_wrap=True)
    metas = [{"num_patches": r.num_patches, "protocol": r.protocol} for r in results]
    for metric in metrics:
        lines = (metric.column or metric.key, metric.counted(metas))
        out.add_column("\n".join(filter(None, lines)), justify="right", no_wrap=True)
    for result in results:
        values = (result.metrics.get(metric.key) for metric in metrics)
        cells = ("" if value is None else f"{value:.4g}" for value in values)
        out.add_row(result.point.name, *cells)
    return out


def written(folder: Path) -> list[Path]:
    """The files that a run has written for its user."""
    names = (
        *("curve.png", "curve.json", "images.csv", "reconstructions", "model"),
        "checkpoints/last.ckpt",
    )
    return [folder / name for name in names if (folder / name).exists()]
