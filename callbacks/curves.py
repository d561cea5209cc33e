"""The curve over a codec's operating points: to disk, and to the loggers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from callbacks.curve_file import SCHEMA_NAMES, curve, git_revision, write_json, write_rows
from callbacks.evaluation import Evaluation, PointResult
from callbacks.figures import panels, plot_curve
from callbacks.set_metrics import PROTOCOLS


class RateCurves(Callback):
    """After each operating point, adds it to the curve and writes the curve anew.

    Writes `curve.json` (CompressAI's results schema), `images.csv` (a row per image and point) and
    `curve.png`; logs to W&B the point with `curve/bpp` as x axis, a table of all points, line plots
    and the summary.

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
        data = self.curve(trainer, pl_module)
        write_json(data, self.folder / "curve.json")
        write_rows(
            [{"point": r.point, **row} for r in self.results for row in r.rows],
            self.folder / "images.csv",
        )
        plot_curve(data, self.folder / "curve.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                self._log_to_wandb(logger.experiment, data)
            elif isinstance(logger, CSVLogger):
                logger.log_metrics(_prefixed(self.results[-1].metrics), len(self.results) - 1)
                logger.save()

    def curve(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The curve so far, as `curve.json` holds it."""
        last = self.results[-1]
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
            self.name,
            [result.point for result in self.results],
            [result.metrics for result in self.results],
            meta,
            self.description,
        )

    def _log_to_wandb(self, run: Any, data: Mapping[str, Any]) -> None:
        import wandb

        # Every quality metric is drawn over the rate, not over the training step.
        run.define_metric("curve/bpp", hidden=True)
        run.define_metric("curve/*", step_metric="curve/bpp")
        results = data["results"]
        columns = ["point", *results]
        rows = list(zip(data["meta"]["points"], *results.values(), strict=True))
        table = wandb.Table(columns=columns, data=[list(row) for row in rows])
        payload: dict[str, Any] = _prefixed(self.results[-1].metrics)
        payload["points"] = table
        payload["figure"] = wandb.Image(str(self.folder / "curve.png"))
        for name in panels(data):
            payload[f"rate_{name}"] = wandb.plot.line(table, "bpp", name, title=f"{name} over bpp")
        run.log(payload)
        # For comparisons: the curve, or one in a folder of each series.
        for path in [self.folder / "curve.json", *self.folder.glob("*/curve.json")]:
            if path.is_file():
                run.save(str(path), base_path=str(self.folder), policy="now")
        for name, value in data["meta"]["ceiling"].items():
            run.summary[f"ceiling/{name}"] = value
        for name, value in self.results[-1].metrics.items():
            run.summary[f"{self.results[-1].point}/{name}"] = value


def _prefixed(metrics: Mapping[str, float]) -> dict[str, Any]:
    return {f"curve/{name}": value for name, value in metrics.items()}


def _callbacks(trainer: Trainer) -> list[Callback]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks
