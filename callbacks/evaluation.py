"""Evaluation: one row per image and distances over the set, on any number of processes."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from callbacks.coverage import check_cover, report_skipped, unique_features, unique_rows
from callbacks.means import Means, means_of, named
from callbacks.measurements import Batch, Features, Measurements
from callbacks.metric_networks import LOADED, choose_metrics, load_networks, taker
from diffcodec.codec import Codec, to_uint8
from diffcodec.measuring import CodecOutput, Decoding, MeasuringPass, PointResult
from diffcodec.metrics import (
    AnnotatedMetric,
    Coding,
    CodingMetric,
    ImageMetric,
    SetMetric,
    all_metrics,
)
from diffcodec.metrics.networks.features import PROTOCOLS, cut
from diffcodec.points import CEILING
from diffcodec.results.gathering import gather_all, gather_to_first
from diffcodec.results.provenance import image_digest, sources_digest

log = logging.getLogger(__name__)


class Evaluation(Callback):
    """Collects a `CodecOutput` per batch and reduces them to a `PointResult` per operating point.

    In test the results go to the `MeasuringPass`.

    Every metric is computed per image on 8-bit pictures. The rows of all processes are gathered,
    deduplicated by dataset index, sorted and averaged in float64, so that no figure depends on the
    batch size or the number of processes. In validation the means are logged as `val/…`.

    Args:
        metrics: keys of `diffcodec.metrics`; None: the default ones. A metric whose weights are not
            available is skipped with one warning.
        weights: sources (see `diffcodec.weights`) for metrics, by the key of an image metric or the
            name of an embedding (`inception`); None: the usual place, or a download.
        protocol: how images are cut for distances between sets: `patches`, `tiles`, `whole` or
            `clean`, see `diffcodec.metrics.networks.features`.
        folder: of the run, where results are kept while a test runs, so that it can resume, see
            `callbacks.measurements`; None: the test cannot resume.

    Raises:
        ValueError: a metric, protocol or name in `weights` is unknown; in test, no image could be
            read, or the rows do not cover the set.
    """

    def __init__(
        self,
        *,
        metrics: Sequence[str] | None = None,
        weights: Mapping[str, str | None] | None = None,
        protocol: str = "patches",
        folder: str | None = None,
    ) -> None:
        if protocol not in PROTOCOLS:
            raise ValueError(f"unknown protocol {protocol!r}, choose from {sorted(PROTOCOLS)}")
        self.protocol = protocol
        self.metrics = choose_metrics(metrics)
        self._weights = dict(weights or {})
        takers = {taker(m) for m in all_metrics().values() if isinstance(m, LOADED)}
        unknown = sorted(set(self._weights) - takers)
        if unknown:
            raise ValueError(
                f"no metric takes weights of {', '.join(unknown)}, choose from "
                f"{', '.join(sorted(takers))}"
            )
        self._measures: dict[str, Any] | None = None  # of an image, by the name of their weights
        self._embeddings: dict[str, nn.Module] = {}
        self._rows: list[dict[str, Any]] = []
        self._features: list[Features] = []
        self._originals: dict[str, dict[str, Tensor]] = {}  # embedded once, by digest
        self._skipped: list[Any] = []
        self._kept = None if folder is None else Measurements(folder)
        self._key = ""
        self._not_kept: Batch | None = None
        self._digests: dict[int, str] = {}  # of images that were looked at again
        self._told: set[str] = set()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Load the networks of the metrics, or warn once that they are not available.

        In test, find out which images are already measured.

        Raises:
            ValueError: a metric needs annotations that the data set does not have.
        """
        if self._measures is None:
            self._check_annotations(getattr(trainer, "datamodule", None))
            self._get_networks(trainer)
        if stage == "test" and self._kept is not None:
            assert isinstance(pl_module, MeasuringPass)
            self._find_measured(trainer, pl_module)

    def _find_measured(self, trainer: Trainer, measuring: MeasuringPass) -> None:
        """Tell the pass which images an interrupted run has measured."""
        assert self._kept is not None
        names = [point.name for point in measuring.points]
        self._key = json.dumps([names, measuring.ceiling])
        # On all processes: the fingerprint builds entropy tables, which must be equal everywhere.
        about = self._about(trainer, measuring.codec)
        known: set[int] = set()
        if trainer.is_global_zero:
            measuring.goes_on = self._kept.start(about)
            dataset = trainer.datamodule.dataset("test")  # type: ignore[attr-defined]
            for batch in self._kept.read(self._key):
                if all(self._is_current(row, dataset) for row in batch.rows):
                    known |= batch.indices
        measuring.measured = trainer.strategy.broadcast(known)

    def _is_current(self, row: Mapping[str, Any], dataset: Any) -> bool:
        """Whether a row belongs to the image that now has its index, with the same pixels."""
        index = row["index"]
        if not (0 <= index < len(dataset) and dataset.items[index].name == row["name"]):
            return False
        if index not in self._digests:
            try:
                sample = dataset[index]
            except ValueError:  # it has become unreadable, which stops the run at its turn
                return False
            if not isinstance(sample, Mapping):
                return False
            self._digests[index] = image_digest(to_uint8(sample["image"]))
        return bool(row["digest"] == self._digests[index])

    def _about(self, trainer: Trainer, codec: Codec) -> dict[str, Any]:
        """Everything that decides what is measured."""
        config = {key: codec.hparams.get(key) for key in _DECIDING}
        datamodule = {k: v for k, v in (config["datamodule"] or {}).items() if k not in _HARMLESS}
        return {
            **config,
            "datamodule": datamodule,
            "metrics": [metric.key for metric in self.metrics],
            "networks": [*(self._measures or {}), *self._embeddings],
            "protocol": self.protocol,
            "precision": str(trainer.precision),
            "fingerprint": codec.fingerprint().hex(),
            "sources": sources_digest("diffcodec", "callbacks", "datamodules"),
        }

    def _get_networks(self, trainer: Trainer) -> None:
        # One process after the other: the first one downloads, the others find it in the cache.
        for rank in range(trainer.world_size):
            if rank == trainer.global_rank:
                self._measures, self._embeddings = load_networks(
                    self.metrics, self._weights, announce=trainer.is_global_zero
                )
            trainer.strategy.barrier()
        available: list[Any] = gather_all(
            [(sorted(self._measures or {}), sorted(self._embeddings))]
        )
        if len({str(entry) for entry in available}) > 1:
            raise RuntimeError(f"the processes do not have the same metrics: {available}")

    def _check_annotations(self, datamodule: Any) -> None:
        has: set[str] | None = getattr(datamodule, "annotations", None)
        if has is None:
            return
        for metric in self.metrics:
            if isinstance(metric, AnnotatedMetric) and metric.annotation not in has:
                raise ValueError(
                    f"{metric.key} needs data that datamodule {datamodule.name!r} does not have: "
                    f"pass {metric.option}"
                )

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(pl_module)

    def _start(self, pl_module: LightningModule) -> None:
        self._rows, self._features, self._skipped = [], [], []
        for network in (*(self._measures or {}).values(), *self._embeddings.values()):
            if isinstance(network, nn.Module):
                network.to(pl_module.device)

    def on_validation_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: LightningModule, outputs: CodecOutput, *_: Any
    ) -> None:
        batch = self._measure(outputs, {}, with_features=False)
        self._rows += batch.rows

    def on_test_batch_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        self._keep(trainer)

    def on_test_batch_end(  # type: ignore[override]
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: CodecOutput,
        batch: Mapping[str, Any],
        *_: Any,
    ) -> None:
        self._skipped += batch.get("skipped", [])
        measured = self._measure(outputs, batch, with_features=True)
        self._rows += measured.rows
        self._features += measured.features
        self._not_kept = measured

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        with suppress(OSError):  # the disk may be full; the exception says so
            self._keep(trainer)

    def _keep(self, trainer: Trainer) -> None:
        """Write the previous batch to disk; its pictures have been written by now."""
        batch, self._not_kept = self._not_kept, None
        if self._kept is not None and batch is not None and batch.rows:
            self._kept.append(trainer.global_rank, self._key, batch)

    @torch.no_grad()
    def _measure(
        self, outputs: CodecOutput, batch: Mapping[str, Any], *, with_features: bool
    ) -> Batch:
        rows = []
        originals = to_uint8(outputs.x)
        digests = [image_digest(x) for x in originals]
        features = [Features(index) for index in outputs.index]
        if with_features:
            for of_image, x, digest in zip(features, originals, digests, strict=True):
                if digest not in self._originals:
                    self._originals[digest] = self._embed(x)
                of_image.real = self._originals[digest]
        for decoding in outputs.decodings:
            decoded = to_uint8(decoding.x_hat)
            for i, (x, x_hat) in enumerate(zip(originals, decoded, strict=True)):
                row = self._row(outputs, decoding, i, x, x_hat) | {"digest": digests[i]}
                if with_features:
                    features[i].fake[decoding.point.name] = self._embed(x_hat)
                    numbers = self._annotated(batch, i, x_hat)
                    features[i].numbers[decoding.point.name] = numbers
                    row |= self._finished(numbers)
                rows.append(row)
        return Batch(rows, features if with_features else [])

    def _row(
        self, outputs: CodecOutput, decoding: Decoding, i: int, x: Tensor, x_hat: Tensor
    ) -> dict[str, Any]:
        """The measurements of the i-th image of a batch at one operating point."""
        height, width = x.shape[-2:]
        coding = Coding(height, width)
        if decoding.num_bytes is not None and decoding.num_payload_bytes is not None:
            coding = Coding(
                height,
                width,
                num_bytes=decoding.num_bytes[i],
                num_payload_bytes=decoding.num_payload_bytes[i],
                num_part_bytes=decoding.num_part_bytes[i] if decoding.num_part_bytes else {},
                encoding_seconds=outputs.encoding_seconds,
                decoding_seconds=decoding.seconds,
            )
        row: dict[str, Any] = {
            "point": decoding.point.name,
            "index": outputs.index[i],
            "name": outputs.name[i],
            "height": height,
            "width": width,
            "num_bytes": coding.num_bytes,
            "num_payload_bytes": coding.num_payload_bytes,
        }
        for metric in self.metrics:
            if isinstance(metric, CodingMetric):
                assert metric.read is not None
                value = metric.read(coding)
                if metric.of_all or value is not None:
                    row[metric.key] = value
            elif isinstance(metric, ImageMetric) and metric.key in (self._measures or {}):
                assert self._measures is not None
                row[metric.key] = self._measures[metric.key](x, x_hat)
        return row

    def _annotated(self, batch: Mapping[str, Any], i: int, x_hat: Tensor) -> dict[str, Tensor]:
        """The numbers of the i-th image of a batch, by the key of the metric."""
        return {
            metric.key: self._measures[metric.key](batch[metric.annotation][i], x_hat).cpu()
            for metric in self.metrics
            if isinstance(metric, AnnotatedMetric)
            and self._measures is not None
            and metric.key in self._measures
            and metric.annotation in batch
        }

    def _finished(self, numbers: Mapping[str, Tensor]) -> dict[str, float]:
        finished = {}
        for metric in self.metrics:
            if isinstance(metric, AnnotatedMetric) and metric.key in numbers:
                assert metric.finish is not None
                finished[metric.key] = metric.finish(numbers[metric.key])
        return finished

    def _embed(self, image: Tensor) -> dict[str, Tensor]:
        pieces = cut(image, self.protocol)
        if not len(pieces):
            return {}
        return {
            name: torch.cat([network(part).cpu() for part in pieces.split(_PATCHES)])
            for name, network in self._embeddings.items()
        }

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        means = self._means(unique_rows(gather_all(self._rows)))
        for name, value in means.values.items():
            pl_module.log(f"val/{name}", value, prog_bar=name in ("bpp", "psnr-rgb"))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, MeasuringPass)
        self._keep(trainer)
        rows, features = gather_to_first(self._rows), gather_to_first(self._features)
        skipped = {image.index: image for image in gather_to_first(self._skipped)}
        self._rows, self._features, self._skipped = [], [], []
        if not trainer.is_global_zero:
            return
        if self._kept is not None:
            before = [
                batch
                for batch in self._kept.read(self._key)
                if batch.indices <= pl_module.measured
                and all(self._digests.get(row["index"]) == row["digest"] for row in batch.rows)
            ]
            rows += [row for batch in before for row in batch.rows]
            features += [of_image for batch in before for of_image in batch.features]
        rows, features = unique_rows(rows), unique_features(features)
        if skipped:
            report_skipped([*skipped.values()], {row["index"] for row in rows})
        names = dict.fromkeys(row["point"] for row in rows)
        check_cover(trainer, rows, names, skipped.keys())
        points = {point.name: point for point in (*pl_module.points, CEILING)}
        for name in names:
            point, own = points[name], [row for row in rows if row["point"] == name]
            num_patches, distances = self._distances(features, name)
            self._warn_of_few_patches(num_patches, distances)
            facts = {} if point is CEILING else pl_module.codec.point_facts(point)
            annotated = self._finished(_sums(f.numbers.get(name, {}) for f in features))
            means = self._means(own)
            metrics = means.values | annotated | distances | facts
            names_skipped = [skipped[index].name for index in sorted(skipped)]
            left_out = self._left_out(metrics, means, num_patches)
            pl_module.results.append(
                PointResult(
                    point,
                    metrics,
                    own,
                    num_patches,
                    self.protocol,
                    names_skipped,
                    means.infinite,
                    left_out,
                )
            )
            self._tell(means, left_out)

    def _warn_of_few_patches(self, count: int, metrics: Iterable[str]) -> None:
        """Warn once that distances over few patches are unreliable."""
        keys = ", ".join(metrics)
        if keys and count < FEW_PATCHES and FEW not in self._told:
            self._told.add(FEW)
            log.warning(
                "%s over %d patches: below %d patches, distances between sets depend more on the "
                "choice of images than on the codec",
                *(keys, count, FEW_PATCHES),
            )

    def finish(self) -> None:
        """Remove the files kept for resuming; one process calls it after all passes."""
        if self._kept is not None:
            self._kept.remove()

    def _means(self, rows: Sequence[Mapping[str, Any]]) -> Means:
        """Means over the images of all per-image metrics."""
        of_images = (m.key for m in self.metrics if isinstance(m, (ImageMetric, CodingMetric)))
        return means_of(rows, of_images)

    def _left_out(
        self, metrics: Mapping[str, float], means: Means, num_patches: int
    ) -> dict[str, str]:
        """Key of a metric whose network is available but that has no value -> the reason."""
        reasons = {}
        for metric in self.metrics:
            if metric.key in metrics or isinstance(metric, CodingMetric):
                continue
            if metric.key in means.infinite:
                reasons[metric.key] = "infinite for all images"
            elif isinstance(metric, ImageMetric) and metric.key in (self._measures or {}):
                reasons[metric.key] = f"not defined for {named(means.lacking.get(metric.key, []))}"
            elif isinstance(metric, SetMetric) and metric.embedding in self._embeddings:
                reasons[metric.key] = f"{num_patches} patches are too few"
        return reasons

    def _tell(self, means: Means, left_out: Mapping[str, str]) -> None:
        """Log once which images a metric lacks."""
        told = {key: f"{key} is left out: {reason}" for key, reason in left_out.items()}
        for key, names in means.infinite.items():
            told.setdefault(key, f"{key} is a mean without {named(names)}, where it is infinite")
        for key in told.keys() - self._told:
            log.warning("%s", told[key])
        self._told |= told.keys()

    def _distances(self, features: Sequence[Features], point: str) -> tuple[int, dict[str, float]]:
        """Patches per set, and distances between originals and one point's pictures."""
        found: dict[str, float] = {}
        count = 0
        for metric in self.metrics:
            if not isinstance(metric, SetMetric):
                continue
            pairs = [
                (f.real[metric.embedding], f.fake[point][metric.embedding])
                for f in features
                if metric.embedding in f.real
            ]
            patches = sum(len(real) for real, _ in pairs)
            count = max(count, patches)
            if patches >= 2:
                assert metric.distance is not None
                real, fake = (torch.cat(side) for side in zip(*pairs, strict=True))
                found[metric.key] = metric.distance(real, fake)
        return count, found


def find_evaluation(trainer: Trainer) -> Evaluation | None:
    """The trainer's `Evaluation`, for callbacks that show its results."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, Evaluation)), None)


FEW_PATCHES = 100
FEW = "few patches"
_PATCHES = 64  # patches per call of an embedding; large images have thousands
# Of the config: what decides the figures, and of the datamodule what does not.
_DECIDING = ("codec", "datamodule", "seed", "threads", "channels_last")
_HARMLESS = ("on_error", "num_workers", "batch_size", "cache")


def _sums(numbers: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Key of a metric -> its numbers, summed over the images in float64."""
    sums: dict[str, Tensor] = {}
    for of_image in numbers:
        for key, values in of_image.items():
            sums[key] = sums.get(key, 0) + values.double()
    return sums
