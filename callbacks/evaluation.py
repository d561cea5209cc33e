"""Measuring a codec: one row per image, and distances over the set, the same on any number of
processes."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from callbacks import image_metrics, set_metrics
from callbacks.gathering import gather_all, gather_to_first
from diffcodec.codec import Codec, CodecOutput, to_uint8

log = logging.getLogger(__name__)

CEILINGS = ("ceiling_psnr", "ceiling_ms_ssim")
MEANS = (
    *("bpp", "bpp_payload", "psnr", "ms_ssim", "lpips"),
    *("encode_seconds", "decode_seconds"),
    *CEILINGS,
)


@dataclass
class PointResult:
    """One operating point.

    Attributes:
        point: its name.
        metrics: metric name -> value over the set.
        rows: one mapping per image, in the order of the dataset.
        num_patches: how many patches (or whole images) a side the set distances were taken over.
        protocol: how they were cut, one of `set_metrics.PROTOCOLS`.
        series: the line of a figure that it belongs to; "" where there is but one.
        ceiling: `psnr` and `ms_ssim` of the codec's `ceiling`, if it has one: what its curve cannot
            pass at any rate.
    """

    point: str
    metrics: dict[str, float]
    rows: list[dict[str, Any]]
    num_patches: int
    protocol: str
    series: str = ""
    ceiling: dict[str, float] = field(default_factory=dict)


@dataclass
class _Features:
    """Features of one image's patches: name of the embedding -> (real, fake), each (P, D)."""

    index: int
    values: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)


class Evaluation(Callback):
    """Collects a `CodecOutput` per batch and reduces them to one `PointResult`.

    Every metric is computed image by image on 8-bit pictures; the rows of all processes are
    gathered, taken once per dataset index, sorted and averaged in float64, so that neither batch
    size nor number of processes changes a figure. In validation the per-image means are logged as
    `val/…`; in test the result is in `result`, on rank 0 alone with rows and set distances.

    Args:
        lpips: network of LPIPS, `alex`, `vgg` or `squeeze`; null leaves it out.
        lpips_weights: its torchvision weights, as a file; null: hub cache or download.
        inception: measure FID and KID.
        inception_weights: as a file; null: hub cache or download.
        random_features: measure `fd_random` and `kd_random`, on a fixed random embedding.
        protocol: `patches` or `whole`: what the set distances are taken over.

    Raises:
        ValueError: an unknown protocol or LPIPS network.
    """

    def __init__(
        self,
        *,
        lpips: str | None = "alex",
        lpips_weights: str | None = None,
        inception: bool = True,
        inception_weights: str | None = None,
        random_features: bool = True,
        protocol: str = "patches",
    ) -> None:
        if protocol not in set_metrics.PROTOCOLS:
            raise ValueError(
                f"unknown protocol {protocol!r}, choose from {sorted(set_metrics.PROTOCOLS)}"
            )
        if lpips is not None and lpips not in image_metrics.LPIPS_NETS:
            raise ValueError(
                f"unknown LPIPS network {lpips!r}, choose from {image_metrics.LPIPS_NETS} or null"
            )
        self.protocol = protocol
        self.result: PointResult | None = None
        self._lpips_options = (lpips, lpips_weights)
        self._inception_options = (inception, inception_weights)
        self._random_features = random_features
        self._lpips: nn.Module | None = None
        self._embeddings: dict[str, nn.Module] | None = None
        self._rows: list[dict[str, Any]] = []
        self._features: list[_Features] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Get the metrics' own networks, or say once that they cannot be had."""
        if self._embeddings is not None:
            return
        # One process after the other: the first one downloads, the others find it in the cache.
        for rank in range(trainer.world_size):
            if rank == trainer.global_rank:
                self._load_networks(announce=trainer.is_global_zero)
            trainer.strategy.barrier()
        available: list[Any] = gather_all(
            [(self._lpips is not None, sorted(self._embeddings or {}))]
        )
        if len({str(entry) for entry in available}) > 1:
            raise RuntimeError(f"the processes do not have the same metrics: {available}")

    def _load_networks(self, *, announce: bool) -> None:
        self._embeddings = {}
        missing = []
        net, weights = self._lpips_options
        if net is not None:
            try:
                self._lpips = image_metrics.load_lpips(net, weights)
            except ValueError as error:
                missing.append(f"lpips ({error}; give callbacks.evaluation.lpips_weights=FILE)")
        wanted, weights = self._inception_options
        if wanted:
            try:
                self._embeddings["inception"] = set_metrics.InceptionFeatures(weights)
            except ValueError as error:
                missing.append(
                    f"fid and kid ({error}; give callbacks.evaluation.inception_weights=FILE)"
                )
        if self._random_features:
            self._embeddings["random"] = set_metrics.RandomFeatures()
        if missing and announce:
            log.warning("left out of this run: %s", "; ".join(missing))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(pl_module)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(pl_module)

    def _start(self, pl_module: LightningModule) -> None:
        self._rows, self._features, self.result = [], [], None
        for network in (self._lpips, *(self._embeddings or {}).values()):
            if network is not None:
                network.to(pl_module.device)

    def on_validation_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: LightningModule, outputs: CodecOutput, *_: Any
    ) -> None:
        self._measure(outputs, with_features=False)

    def on_test_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: LightningModule, outputs: CodecOutput, *_: Any
    ) -> None:
        assert isinstance(pl_module, Codec)
        self._measure(outputs, with_features=True)
        best = pl_module.ceiling(outputs.x)
        if best is not None:
            for row, x, x_best in zip(
                self._rows[-len(best) :], to_uint8(outputs.x), to_uint8(best), strict=True
            ):
                row["ceiling_psnr"] = image_metrics.psnr(x, x_best)
                row["ceiling_ms_ssim"] = image_metrics.ms_ssim(x, x_best)

    @torch.no_grad()
    def _measure(self, outputs: CodecOutput, *, with_features: bool) -> None:
        originals, decoded = to_uint8(outputs.x), to_uint8(outputs.x_hat)
        for i, (x, x_hat) in enumerate(zip(originals, decoded, strict=True)):
            height, width = x.shape[-2:]
            row: dict[str, Any] = {
                "index": outputs.index[i],
                "name": outputs.name[i],
                "height": height,
                "width": width,
                "num_bytes": outputs.num_bytes[i],
                "num_payload_bytes": outputs.num_payload_bytes[i],
                "bpp": 8 * outputs.num_bytes[i] / (height * width),
                "bpp_payload": 8 * outputs.num_payload_bytes[i] / (height * width),
                "psnr": image_metrics.psnr(x, x_hat),
                "ms_ssim": image_metrics.ms_ssim(x, x_hat),
                "lpips": None,
                "encode_seconds": outputs.encode_seconds,
                "decode_seconds": outputs.decode_seconds,
            }
            if self._lpips is not None and min(height, width) >= 32:
                row["lpips"] = image_metrics.lpips_distance(self._lpips, x, x_hat)
            self._rows.append(row)
            if with_features and self._embeddings:
                self._features.append(self._embed(outputs.index[i], x, x_hat))

    def _embed(self, index: int, x: Tensor, x_hat: Tensor) -> _Features:
        cut = set_metrics.patches if self.protocol == "patches" else (lambda image: image[None])
        real, fake = cut(x), cut(x_hat)
        features = _Features(index)
        for name, network in (self._embeddings or {}).items():
            if len(real):
                features.values[name] = (network(real).cpu(), network(fake).cpu())
        return features

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows = _unique(gather_all(self._rows))
        for name, value in reduce_rows(rows).items():
            pl_module.log(f"val/{name}", value, prog_bar=name in ("bpp", "psnr"))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Codec)
        rows = _unique(gather_to_first(self._rows))
        features = _unique(gather_to_first(self._features))
        self._rows, self._features = [], []
        if not trainer.is_global_zero:
            return
        metrics = reduce_rows(rows)
        num_patches, distances = reduce_features(features)
        ceiling = {
            name.removeprefix("ceiling_"): metrics.pop(name) for name in CEILINGS if name in metrics
        }
        self.result = PointResult(
            point=pl_module.point,
            metrics=metrics | distances | pl_module.point_facts(),
            rows=rows,
            num_patches=num_patches,
            protocol=self.protocol,
            series=pl_module.series,
            ceiling=ceiling,
        )


def reduce_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over the images, in float64; a metric that some image lacks is left out."""
    means = {}
    for name in MEANS:
        values: list[Any] = [row.get(name) for row in rows]
        if values and None not in values:
            means[name] = math.fsum(values) / len(values)
    return means


def reduce_features(features: Sequence[_Features]) -> tuple[int, dict[str, float]]:
    """Number of patches, and the Fréchet and kernel distance in every embedding."""
    names = {"inception": ("fid", "kid"), "random": ("fd_random", "kd_random")}
    distances: dict[str, float] = {}
    count = 0
    for embedding, (frechet, kernel) in names.items():
        pairs = [f.values[embedding] for f in features if embedding in f.values]
        count = max(count, sum(len(real) for real, _ in pairs))
        if sum(len(real) for real, _ in pairs) < 2:
            continue
        real, fake = (torch.cat(side) for side in zip(*pairs, strict=True))
        distances[frechet] = set_metrics.frechet_distance(real, fake)
        distances[kernel] = set_metrics.kernel_distance(real, fake)
    return count, distances


def _unique(items: list[Any]) -> list[Any]:
    """Once per dataset index, in its order."""
    by_index: dict[int, Any] = {}
    for item in items:
        by_index.setdefault(item["index"] if isinstance(item, dict) else item.index, item)
    return [by_index[index] for index in sorted(by_index)]
