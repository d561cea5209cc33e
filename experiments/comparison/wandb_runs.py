"""Reads curves from W&B runs, and logs a comparison to W&B."""

import json
import math
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from diffcodec.points import Point
from diffcodec.results.curves import CURVE_FILE, Curve, curve_from_json
from experiments.comparison.lines import Line, measured
from experiments.comparison.runs import Run
from experiments.comparison.table import Table

PREFIX = "curve/"
JOB_TYPE = "comparison"


def wandb_runs(path: str, group: str | None = None, api: Any = None) -> list[Run]:
    """The curves of a project's runs.

    Reads a run's uploaded `curve.json`, else its history of `curve/…`.

    Args:
        path: `ENTITY/PROJECT`.
        group: only runs of this group; null: all runs with a curve.
        api: a `wandb.Api`; null creates one.

    Raises:
        ValueError: the project cannot be read, or none of its runs has a curve.
    """
    import wandb

    filters = {"group": group} if group else {}
    try:
        found = list((api or wandb.Api()).runs(path, filters=filters))
    except (wandb.errors.Error, ValueError, OSError) as error:
        raise ValueError(f"cannot read the W&B project {path!r}: {error}") from error
    curves = [curve for run in found for curve in _read_run(run)]
    if not curves:
        where = f" in group {group!r}" if group else ""
        raise ValueError(f"none of the {len(found)} runs of {path!r}{where} has a curve")
    return curves


def log_comparison(
    run: Any, curves: Sequence[Line], table: Table, figures: Sequence[Path], page: Path
) -> None:
    """Log table, figures, joined curves and page to a W&B run of type `comparison`."""
    import wandb

    columns: list[str | int] = [heading for _, heading in table.columns]
    payload: dict[str, Any] = {
        "table": wandb.Table(
            columns=columns,
            data=[[c.text if c.value is None else c.value for c in row] for row in table.rows],
        ),
        "page": wandb.Html(page.read_text(encoding="utf-8"), inject=False),
    }
    for figure in figures:
        payload[f"figures/{figure.stem}"] = wandb.Image(str(figure))
    metrics = measured(curves)
    keys = ["bpp", *(metric.key for metric in metrics)]
    rows = [
        [curve.label, point.name, point.run.source, *(point.metrics.get(key) for key in keys)]
        for curve in curves
        for point in curve.points
    ]
    columns = ["curve", "point", "run", *keys]
    payload["curves"] = wandb.Table(columns=columns, data=rows)
    for metric in metrics:
        pairs_of = [(curve.label, curve.pairs(metric.key)) for curve in curves]
        drawn = [(label, pairs) for label, pairs in pairs_of if pairs]
        payload[f"rate_{metric.key}"] = wandb.plot.line_series(
            xs=[[rate for rate, _ in pairs] for _, pairs in drawn],
            ys=[[value for _, value in pairs] for _, pairs in drawn],
            keys=[label for label, _ in drawn],
            title=f"{metric.label} over bpp",
            xname="bpp",
        )
    run.log(payload)
    for row in table.rows:
        for (key, _), cell in zip(table.columns, row, strict=True):
            if cell.value is not None:
                run.summary[f"{row[0].text}/{key}"] = cell.value
    run.summary["footnotes"] = "\n".join(table.footnotes)


def _read_run(run: Any) -> list[Run]:
    source = "/".join(run.path) if isinstance(run.path, list | tuple) else str(run.path)
    modified = _seconds(getattr(run, "created_at", None))
    curves = []
    # A run with several series has one folder per series.
    for file in run.files(pattern=f"%{CURVE_FILE}"):
        with tempfile.TemporaryDirectory() as folder:
            file.download(root=folder, replace=True)
            data = json.loads((Path(folder) / file.name).read_text(encoding="utf-8"))
        series = file.name.rpartition("/")[0]
        address = f"{source}/{series}" if series else source
        curves.append(Run(curve_from_json(data, source=address), address, modified=modified))
    if curves:
        return curves
    older = _from_history(run, source, modified)
    return [older] if older else []


def _from_history(run: Any, source: str, modified: float) -> Run | None:
    """A run without an uploaded file: points without their settings."""
    points: list[dict[str, float]] = []
    for row in run.scan_history():
        metrics = {
            name: float(value)
            for name, value in ((k.removeprefix(PREFIX), v) for k, v in row.items() if PREFIX in k)
            if isinstance(value, int | float) and math.isfinite(value)
        }
        if "bpp" in metrics:
            points.append(metrics)
    if not points:
        return None
    config = dict(run.config)
    meta: dict[str, Any] = {"config": config}
    dataset = (config.get("datamodule") or {}).get("name")
    if dataset:
        meta["dataset"] = dataset
    names = tuple(Point(f"point {i + 1}") for i in range(len(points)))
    curve = Curve(config.get("name") or run.name, names, tuple(points), meta)
    return Run(curve, source, modified=modified)


def _seconds(created: str | None) -> float:
    return datetime.fromisoformat(created).timestamp() if created else 0.0
