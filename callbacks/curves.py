"""The curves over a codec's operating points: to disk, and to the loggers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from callbacks.curve_file import (
    SCHEMA_NAMES,
    curve,
    git_revision,
    safe_name,
    write_json,
    write_rows,
)
from callbacks.evaluation import Evaluation, PointResult
from callbacks.figures import panels, plot_curves
from callbacks.set_metrics import PROTOCOLS


class RateCurves(Callback):
    """After each operating point, adds it to the curve and writes the curve anew.

    Writes `curve.json` (CompressAI's results schema), `images.csv` (a row per image and point) and
    `curve.png`; logs to W&B the point with `curve/bpp` as x axis, a table of all points, line plots
    and the summary. A codec whose points make several series has a curve of each, in
    `SERIES/curve.json`, and all of them as lines of one figure and of one plot.

    Args:
        name: of the curve, as in its legend.
        folder: where the files go.
        description: goes into the file as it is.
    """

    def __init__(self, name: str, folder: str, description: str = "") -> None:
        self.name = name
        self.folder = Path(folder)
        self.description = description
        self.results: list[PointResult] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not any(isinstance(c, Evaluation) for c in _callbacks(trainer)):
            raise ValueError("RateCurves draws what Evaluation measures: add callbacks.evaluation")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        evaluation = next(c for c in _callbacks(trainer) if isinstance(c, Evaluation))
        if not trainer.is_global_zero or evaluation.result is None:
            return
        self.results.append(evaluation.result)
        self.folder.mkdir(parents=True, exist_ok=True)
        curves = self.curves(trainer, pl_module)
        for series, data in curves.items():
            folder = self.folder / safe_name(series) if series else self.folder
            folder.mkdir(parents=True, exist_ok=True)
            write_json(data, folder / "curve.json")
        write_rows(
            [{"point": r.point, **row} for r in self.results for row in r.rows],
            self.folder / "images.csv",
        )
        plot_curves([*curves.values()], self.folder / "curve.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                self._log_to_wandb(logger.experiment, curves)
            elif isinstance(logger, CSVLogger):
                logger.log_metrics(_prefixed(self.results[-1].metrics), len(self.results) - 1)
                logger.save()

    def curves(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, dict[str, Any]]:
        """The curve of each series so far, as its `curve.json` holds it."""
        names = dict.fromkeys(result.series for result in self.results)
        return {name: self._curve(name, trainer, pl_module) for name in names}

    def _curve(self, series: str, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        results = [result for result in self.results if result.series == series]
        last = results[-1]
        sizes = sorted({f"{row['height']}x{row['width']}" for row in last.rows})
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        meta = {
            "dataset": datamodule.name,
            "num_images": len(last.rows),
            "sizes": sizes,
            "num_patches": last.num_patches,
            "fid": PROTOCOLS[last.protocol],
            "ceiling": {SCHEMA_NAMES[name]: value for name, value in last.ceiling.items()},
            "rate": "bpp: whole file, header included; bpp-payload: without container header",
            "num_parameters": sum(p.numel() for p in pl_module.parameters()),
            "device": str(pl_module.device),
            "precision": str(trainer.precision),
            "world_size": trainer.world_size,
            "threads": torch.get_num_threads(),
            "git_revision": git_revision(),
            "config": dict(pl_module.hparams),
        }
        return curve(
            f"{self.name} {series}" if series else self.name,
            [result.point for result in results],
            [result.metrics for result in results],
            meta,
            self.description,
        )

    def _log_to_wandb(self, run: Any, curves: Mapping[str, Mapping[str, Any]]) -> None:
        import wandb

        # Every quality metric is drawn over the rate, not over the training step.
        last = self.results[-1]
        prefix = f"curve/{last.series}" if last.series else "curve"
        run.define_metric(f"{prefix}/bpp", hidden=True)
        run.define_metric(f"{prefix}/*", step_metric=f"{prefix}/bpp")
        keys = list(dict.fromkeys(key for data in curves.values() for key in data["results"]))
        table = wandb.Table(columns=["series", "point", *keys], data=_rows(curves, keys))
        payload: dict[str, Any] = _prefixed(last.metrics, prefix)
        payload["points"] = table
        payload["figure"] = wandb.Image(str(self.folder / "curve.png"))
        shown = dict.fromkeys(name for data in curves.values() for name in panels(data))
        for name in shown:
            title = f"{name} over bpp"
            payload[f"rate_{name}"] = wandb.plot.line(
                table, "bpp", name, stroke="series" if len(curves) > 1 else None, title=title
            )
        run.log(payload)
        # For comparisons: the curve, or one in a folder of each series.
        for path in [self.folder / "curve.json", *self.folder.glob("*/curve.json")]:
            if path.is_file():
                run.save(str(path), base_path=str(self.folder), policy="now")
        for name, value in curves[last.series]["meta"]["ceiling"].items():
            run.summary[f"ceiling/{name}"] = value
        for name, value in last.metrics.items():
            run.summary[f"{last.point}/{name}"] = value


def _prefixed(metrics: Mapping[str, float], prefix: str = "curve") -> dict[str, Any]:
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


def _rows(curves: Mapping[str, Mapping[str, Any]], keys: Sequence[str]) -> list[list[Any]]:
    """One row per point: its series, its name and the columns `keys`, None where there is none."""
    rows = []
    for series, data in curves.items():
        results = data["results"]
        for i, point in enumerate(data["meta"]["points"]):
            rows.append([series, point, *(results[k][i] if k in results else None for k in keys)])
    return rows


def _callbacks(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks
