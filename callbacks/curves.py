"""Writes and logs the curves over the operating points of a codec."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, WandbLogger

from callbacks.earlier_results import set_aside
from callbacks.evaluation import find_evaluation
from callbacks.tracking import never_fatal
from diffcodec.codec import Codec
from diffcodec.measuring import MeasuringPass, PointResult
from diffcodec.metrics import ordered
from diffcodec.metrics.networks.features import PROTOCOLS
from diffcodec.points import CEILING, Point, shown
from diffcodec.results.curves import (
    CURVE_FILE,
    ROWS_FILE,
    Curve,
    finite,
    safe_name,
    write_json,
    write_rows,
)
from diffcodec.results.figures import all_panels, panels, plot_curves
from diffcodec.results.provenance import git_revision, set_digest, sources_digest

MANY = 7  # number of default metrics; with more, all are drawn into a second figure
MAX_TAG = 64  # characters, W&B's limit


class RateCurves(Callback):
    """Adds the points of each pass over the data to the curves and rewrites them.

    Writes `curve.json` (CompressAI's results schema), `images.csv` (one row per image and point),
    `curve.png` and, with more metrics than the default, `metrics.png`. Logs each point to W&B with
    `curve/bpp` as x axis, a table of all points, line plots and the summary. If the points form
    several series, each series gets its own curve in `SERIES/curve.json`, and all are lines of one
    figure and one plot.

    Args:
        name: of the curve, shown in legends.
        folder: of the files.
        description: is written into the file.
    """

    def __init__(self, name: str, folder: str, description: str = "") -> None:
        self.name = name
        self.folder = Path(folder)
        self.description = description
        self.results: list[PointResult] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if find_evaluation(trainer) is None:
            raise ValueError("RateCurves needs the results of Evaluation: add callbacks.evaluation")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and trainer.is_global_zero:
                tag = rate_tag(_codec(pl_module).points)
                with never_fatal():
                    run = logger.experiment
                    # A tag to filter by in W&B: the setting that chooses the rate.
                    if tag and tag not in (run.tags or ()):
                        run.tags = (*(run.tags or ()), tag)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MeasuringPass)
        if trainer.is_global_zero and not self.results and not pl_module.goes_on:
            set_aside(self.folder)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MeasuringPass)
        added = pl_module.results
        if not trainer.is_global_zero or not added:
            return
        self.results += added
        self.folder.mkdir(parents=True, exist_ok=True)
        curves = self.curves(trainer, pl_module)
        for series, curve in curves.items():
            path = self._file_of(series)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(curve.to_json(), path)
        write_rows([row for r in self.results for row in r.rows], self.folder / ROWS_FILE)
        drawn = [*curves.values()]
        plot_curves(drawn, self.folder / "curve.png")
        every = all_panels(drawn)
        if len(every) > MANY:
            plot_curves(drawn, self.folder / "metrics.png", every)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                with never_fatal():
                    self._log_to_wandb(logger.experiment, added, curves)
            elif isinstance(logger, CSVLogger):
                first = len(self.results) - len(added)
                for i, result in enumerate(added):
                    logger.log_metrics(_prefixed(result.metrics), first + i)
                logger.save()

    def _file_of(self, series: str) -> Path:
        return (self.folder / safe_name(series) if series else self.folder) / CURVE_FILE

    def curves(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Curve]:
        """The curve of each series so far."""
        measured = [result for result in self.results if result.point is not CEILING]
        names = dict.fromkeys(result.point.series for result in measured)
        return {name: self._curve(name, trainer, pl_module) for name in names}

    def _curve(self, series: str, trainer: Trainer, pl_module: LightningModule) -> Curve:
        results = [result for result in self.results if result.point.series == series]
        ceilings = [result for result in self.results if result.point is CEILING]
        last = results[-1]
        sizes = sorted({f"{row['height']}x{row['width']}" for row in last.rows})
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        meta = {
            "dataset": datamodule.name,
            "num_images": len(last.rows),
            "num_skipped": len(last.skipped),
            "skipped": last.skipped,
            "sizes": sizes,
            "digest": set_digest(last.rows),
            "infinite": {
                result.point.name: result.infinite for result in results if result.infinite
            },
            "left_out": last.left_out,
            "num_patches": last.num_patches,
            "protocol": last.protocol,
            "fid": PROTOCOLS[last.protocol],
            "variants": {m.key: m.variant for m in ordered(last.metrics) if m.variant},
            "ceiling": finite(ceilings[0].metrics) if ceilings else {},
            "rate": "bpp: whole file, header included; bpp-payload: without container header",
            "num_parameters": sum(p.numel() for p in pl_module.parameters()),
            "device": str(pl_module.device),
            "precision": str(trainer.precision),
            "world_size": trainer.world_size,
            "threads": torch.get_num_threads(),
            "git_revision": git_revision(),
            "sources": sources_digest("diffcodec", "callbacks", "datamodules"),
            "config": dict(pl_module.hparams),
        }
        return Curve(
            f"{self.name} {series}" if series else self.name,
            tuple(result.point for result in results),
            tuple(finite(result.metrics) for result in results),
            meta,
            self.description,
        )

    def _log_to_wandb(
        self, run: Any, added: Sequence[PointResult], curves: Mapping[str, Curve]
    ) -> None:
        import wandb

        keys = list(dict.fromkeys(key for curve in curves.values() for key in curve.keys))
        table = wandb.Table(columns=["series", "point", *keys], data=_rows(curves, keys))
        shared: dict[str, Any] = {
            "points": table,
            "figure": wandb.Image(str(self.folder / "curve.png")),
        }
        several = len(curves) > 1
        metas = [curve.meta for curve in curves.values()]
        for metric in panels([*curves.values()]):
            shared[f"rate_{metric.key}"] = wandb.plot.line(
                table,
                "bpp",
                metric.key,
                stroke="series" if several else None,
                title=" over ".join(filter(None, (metric.label, metric.counted(metas), "bpp"))),
            )
        measured = [result for result in added if result.point is not CEILING]
        for result in measured:
            # Every quality metric is drawn over the rate, not over the training step.
            prefix = f"curve/{result.point.series}" if result.point.series else "curve"
            run.define_metric(f"{prefix}/bpp", hidden=True)
            run.define_metric(f"{prefix}/*", step_metric=f"{prefix}/bpp")
            last = shared if result is measured[-1] else {}
            run.log({**_prefixed(result.metrics, prefix), **last})
        # For comparisons: the curve, or one per series in its folder.
        for series in curves:
            path = self._file_of(series)
            run.save(str(path), base_path=str(self.folder), policy="now")
        for result in added:
            for name, value in result.metrics.items():
                run.summary[f"{result.point.name}/{name}"] = value


def rate_tag(points: Sequence[Point]) -> str:
    """The settings that choose the rate as one tag; of several values the first and the last."""
    parts = []
    for key in points[0].rate:
        values = list(dict.fromkeys(shown(point.rate[key]) for point in points))
        parts.append(f"{key}={values[0]}" + (f"…{values[-1]}" if len(values) > 1 else ""))
    return ",".join(parts)[:MAX_TAG]


def _prefixed(metrics: Mapping[str, float], prefix: str = "curve") -> dict[str, Any]:
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


def _rows(curves: Mapping[str, Curve], keys: Sequence[str]) -> list[list[Any]]:
    """One row per point: series, name and the columns `keys`, None if a value is missing."""
    return [
        [series, point.name, *(metrics.get(key) for key in keys)]
        for series, curve in curves.items()
        for point, metrics in zip(curve.points, curve.metrics, strict=True)
    ]


def _codec(module: LightningModule) -> Codec:
    """The codec that a module measures or trains."""
    if isinstance(module, Codec):
        return module
    codec = module.codec
    assert isinstance(codec, Codec)
    return codec
