"""The evaluation step: compress to bytes, decompress, and measure wall-clock time."""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from diffcodec.points import CEILING, Point, group_by_bytes

if TYPE_CHECKING:
    from diffcodec.codec import Codec

T = TypeVar("T")


@dataclass
class Decoding:
    """The reconstructions of B images of one size at one operating point.

    Attributes:
        point: the operating point, or `CEILING`, which no stream makes.
        x_hat: reconstructions, (B, 3, H, W) in [0, 1].
        seconds: wall-clock time per image, measured after device synchronization; None where no
            stream is decoded.
        num_bytes: length of each stream, header included; None where there is none.
        num_payload_bytes: the same without container header and checksum.
        num_part_bytes: of each stream, see `Codec.num_part_bytes`.
    """

    point: Point
    x_hat: Tensor
    seconds: float | None = None
    num_bytes: list[int] | None = None
    num_payload_bytes: list[int] | None = None
    num_part_bytes: list[dict[str, int]] | None = None


@dataclass
class CodecOutput:
    """What one evaluation step measured, for B images of one size that were encoded once.

    Attributes:
        index: B dataset indices.
        name: B file names.
        x: originals, (B, 3, H, W) in [0, 1].
        encoding_seconds: wall-clock time per image, measured after device synchronization.
        decodings: the reconstructions at each operating point.
    """

    index: list[int]
    name: list[str]
    x: Tensor
    encoding_seconds: float
    decodings: list[Decoding]


@dataclass
class PointResult:
    """The results at one operating point.

    Attributes:
        point: the operating point, or `CEILING`.
        metrics: key of a metric -> value over the set.
        rows: one mapping per image, in the order of the dataset.
        num_patches: how many patches (or whole images) a side the set distances were taken over.
        protocol: how they were cut, see `diffcodec.metrics.networks.features`.
        skipped: names of images that could not be read and were left out.
        infinite: key of a metric -> names of images that its mean leaves out, being infinite there.
        left_out: key of a metric -> why it has no value, where it was asked for.
    """

    point: Point
    metrics: dict[str, float]
    rows: list[dict[str, Any]]
    num_patches: int
    protocol: str
    skipped: list[str] = field(default_factory=list)
    infinite: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


class MeasuringPass(LightningModule):
    """One pass over the test set: images are encoded once and decoded at several points.

    Pass it to `Trainer.test` instead of the codec. Callbacks read `codec` and `points` from it and
    exchange results through its attributes.

    Args:
        codec: the codec to measure.
        points: operating points that share their bytes, or of a progressive codec a prefix; None is
            all points of the codec.
        ceiling: measure the codec's `ceiling` in addition.

    Attributes:
        measured: indices of images that an earlier, interrupted pass has measured. The datamodule
            leaves them out.
        goes_on: whether this run goes on with what an interrupted one has measured.
        results: the results of this pass, on the first process, once its images are measured.

    Raises:
        ValueError: there is no point, or their bytes differ.
    """

    def __init__(
        self, codec: "Codec", points: Sequence[Point] | None = None, *, ceiling: bool = False
    ) -> None:
        super().__init__()
        points = tuple(codec.points if points is None else points)
        if len(group_by_bytes(points, progressive=codec.progressive)) != 1:
            names = [point.name for point in points]
            raise ValueError(f"points of one pass must share their bytes, got {names}")
        self.codec = codec
        self.points = points
        self.ceiling = ceiling
        self.measured: Set[int] = frozenset()
        self.goes_on = False
        self.results: list[PointResult] = []
        self.save_hyperparameters(dict(codec.hparams))

    def on_test_epoch_start(self) -> None:
        self.codec.forget_fingerprint()
        self.codec.prepare_points(self.points)

    def test_step(  # type: ignore[override]
        self, batch: dict[str, Any], batch_idx: int
    ) -> CodecOutput:
        """Compress a batch of images of one size, and decompress it at each point."""
        return code_batch(self.codec, batch, self.points, ceiling=self.ceiling)

    def on_test_end(self) -> None:
        if self.trainer.is_global_zero:
            self.codec.write_prepared(self.trainer.default_root_dir)


def code_batch(
    codec: "Codec", batch: dict[str, Any], points: Sequence[Point], *, ceiling: bool = False
) -> CodecOutput:
    """Compress a batch of images of one size, and decompress it at each of several points.

    Args:
        codec: what is measured.
        batch: of a datamodule; without any image the output has none.
        points: as of `MeasuringPass`.
        ceiling: add the codec's ceiling.
    """
    if not len(batch["index"]):  # none of its images could be read, or all are measured
        return CodecOutput([], [], batch["image"], 0.0, [])
    # Of a progressive codec the stream of the highest rate holds the others.
    point = max(points, key=codec.points.index) if codec.progressive else points[0]
    codec.load_point(point)
    codec.fingerprint()  # builds the entropy tables, which is no part of coding an image
    about = {"about": batch} if codec.reads_annotations else {}
    start = _clock(codec)
    streams = codec.compress(batch["image"], point, **about)
    encoded = _clock(codec)
    decodings = list(decompress_at(codec, streams, points))
    best = codec.ceiling(batch["image"]) if ceiling else None
    if best is not None:
        decodings.append(Decoding(CEILING, best))
    return CodecOutput(
        index=batch["index"].tolist(),
        name=list(batch["name"]),
        x=batch["image"],
        encoding_seconds=(encoded - start) / len(streams),
        decodings=decodings,
    )


def decompress_at(
    codec: "Codec", streams: Sequence[bytes], points: Sequence[Point]
) -> Iterator[Decoding]:
    """Decode the same streams at several points, and measure the time of each.

    Parts of decoding that points share (`Codec.once`) are computed once, and their time counts for
    each point.
    """
    with codec.sharing() as shared:
        for point in points:
            arrived = codec.cut(streams, point)
            shared.seconds_saved = 0.0
            start = _clock(codec)
            x_hat = codec.decompress(arrived, point)
            seconds = _clock(codec) - start + shared.seconds_saved
            contents = codec.unpack(arrived)
            yield Decoding(
                point,
                x_hat,
                seconds / len(arrived),
                num_bytes=[len(stream) for stream in arrived],
                num_payload_bytes=[c.num_payload_bytes for c in contents],
                num_part_bytes=[codec.num_part_bytes(c.sections) for c in contents],
            )


class SharedWork:
    """Parts of decoding that are computed once and reused.

    Args:
        codec: what decodes.

    Attributes:
        seconds_saved: seconds that the reused parts had taken.
    """

    def __init__(self, codec: "Codec") -> None:
        self._codec = codec
        self._made: dict[Hashable, tuple[Any, float]] = {}
        self.seconds_saved = 0.0

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """The part with this key; compute it on the first call."""
        if key not in self._made:
            start = _clock(self._codec)
            made = make()
            self._made[key] = made, _clock(self._codec) - start
            return made
        known, seconds = self._made[key]
        self.seconds_saved += seconds
        result: T = known
        return result


def _clock(codec: "Codec") -> float:
    if codec.device.type != "cpu":
        torch.accelerator.synchronize(codec.device)
    return time.perf_counter()
