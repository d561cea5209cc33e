"""The one interface of every codec: images -> bytes -> images, and how it is measured."""

import hashlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from diffcodec import bitstream
from diffcodec.bitstream import BitstreamError, derive_seed
from diffcodec.configuration import Configured
from diffcodec.model_folder import load_saved, push_model, save_model
from diffcodec.points import CEILING, Point, find_points, group_by_bytes
from diffcodec.weights import load_checkpoint, state_dict_of

T = TypeVar("T")

__all__ = ["BitstreamError", "Codec", "CodecOutput", "Decoded", "Decoding", "to_uint8"]


@dataclass
class Decoding:
    """What one operating point makes of the streams of B images of one size.

    Attributes:
        point: the operating point, or `CEILING`, which no stream makes.
        x_hat: reconstructions, (B, 3, H, W) in [0, 1].
        seconds: per image, the device synchronised around the clock; None where no stream is
            decoded.
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
class Decoded:
    """What a decoder has of B images: what a network that goes on from there may use.

    Attributes:
        x_hat: reconstructions, (B, 3, H, W) in [0, 1].
        y_hat: quantised latents that they were made of, (B, C, h, w), of the images padded around
            to multiples of 64 by `diffcodec.padding.pad_around`; None where there are none.
        lmbda: rate-distortion weights that the streams say they were coded for, (B,); None where
            they do not say.
    """

    x_hat: Tensor
    y_hat: Tensor | None = None
    lmbda: Tensor | None = None


@dataclass
class CodecOutput:
    """What one evaluation step measured, for B images of one size that were encoded once.

    Attributes:
        index: B dataset indices.
        name: B file names.
        x: originals, (B, 3, H, W) in [0, 1].
        encoding_seconds: per image, the device synchronised around the clock.
        decodings: what each operating point made of these streams.
    """

    index: list[int]
    name: list[str]
    x: Tensor
    encoding_seconds: float
    decodings: list[Decoding]


class Codec(Configured, LightningModule, ABC):
    """An image codec.

        x (B, 3, H, W) -> encode -> sections -> pack -> bytes
        bytes -> unpack -> sections -> decode -> x_hat (B, 3, H, W)

    A subclass writes `encode` and `decode` for its own sections; the container, the checks and the
    evaluation step are here. A codec that is trained adds `training_step` and
    `configure_optimizers`.

    Several processes that share a batch train it as one process does, to rounding, where they draw
    what is random alike: losses are means over images, and codebooks are averaged over all. But
    noise, timesteps and dropped conditions are drawn by each process for its own images, so that
    the weights of one and of two processes are two samples of the same training. Which images are
    drawn, and how they are cropped, depends on neither.

    Args:
        points: the operating points that can be reached without retraining, as
            `diffcodec.points.combine` makes them of a codec's settings.
    """

    num_sections: int = 1
    """How many byte strings `encode` returns for an image."""

    progressive: bool = False
    """Whether a stream that was cut anywhere still decodes, if less well; it has one section."""

    differentiable: bool = False
    """Whether `reconstruct` is there."""

    pretrained: bool = False
    """Whether the parts that it was built from, such as its backbone, brought trained weights."""

    requires_weights: bool = False
    """Whether it codes with networks that must be trained, though it trains none itself."""

    def __init__(self, points: Sequence[Point] = (Point("default"),)) -> None:
        super().__init__()
        if not points:
            raise ValueError("a codec needs at least one operating point")
        names = [point.name for point in points]
        if len(set(names)) != len(names):
            raise ValueError(f"operating points are named twice: {names}")
        self._points = tuple(points)
        self._point = self._points[0]
        self._measured: tuple[Point, ...] = (self._point,)
        self._measures_ceiling = False
        self._fingerprint: tuple[tuple[Any, ...], bytes] | None = None
        self._done: dict[Hashable, tuple[Any, float]] | None = None  # by `once`
        self._seconds_saved = 0.0

    @property
    def points(self) -> tuple[Point, ...]:
        """The operating points reachable without retraining."""
        return self._points

    @property
    def point(self) -> Point:
        """The operating point that `compress` and `decompress` use."""
        return self._point

    def select(self, point: Point | str) -> None:
        """Go to an operating point, given by itself, its name, or its rate if only one has that.

        Raises:
            ValueError: the codec has no such point, or several.
        """
        (self._point,) = find_points(self._points, getattr(point, "name", point))

    def measure(self, points: Sequence[Point], *, ceiling: bool = False) -> None:
        """Choose what `test_step` decodes.

        Args:
            points: operating points that share their bytes, or of a progressive codec begin with
                the same: images are encoded once for all.
            ceiling: look at the codec's `ceiling`, too.

        Raises:
            ValueError: there is no point, or their bytes differ.
        """
        if len(group_by_bytes(points, progressive=self.progressive)) != 1:
            names = [point.name for point in points]
            raise ValueError(f"points of one pass must share their bytes, got {names}")
        self._measured = tuple(points)
        self._measures_ceiling = ceiling
        self.select(points[0])

    @property
    def measured(self) -> tuple[Point, ...]:
        """The operating points that `test_step` decodes."""
        return self._measured

    @property
    def measures_ceiling(self) -> bool:
        """Whether `test_step` looks at the ceiling, too."""
        return self._measures_ceiling

    @property
    def trainable(self) -> bool:
        """Whether this codec has something to train."""
        return is_overridden("training_step", self, LightningModule)

    @abstractmethod
    def encode(self, x: Tensor) -> list[list[bytes]]:
        """Images (B, 3, H, W) in [0, 1] -> `num_sections` byte strings per image."""

    @abstractmethod
    def decode(
        self, payloads: list[list[bytes]], height: int, width: int, seeds: list[int]
    ) -> Tensor:
        """Sections and a noise seed per image -> images (B, 3, height, width) in [0, 1].

        Raises:
            BitstreamError: the sections are not what `encode` writes.
        """

    def size_problem(self, height: int, width: int) -> str | None:
        """Why images of this size in pixels cannot be coded and decoded; None where they can."""
        inner = (child for child in self.children() if isinstance(child, Codec))
        problems = (child.size_problem(height, width) for child in inner)
        return next(filter(None, problems), None) or bitstream.size_problem(height, width)

    def decode_all(
        self, payloads: list[list[bytes]], height: int, width: int, seeds: list[int]
    ) -> Decoded:
        """As `decode`, with everything else that the decoder knows of the images."""
        return Decoded(self.decode(payloads, height, width, seeds).clamp(0, 1))

    @property
    def latent_channels(self) -> int:
        """Channels of the y_hat of `decode_all`; 0 where there is none."""
        return 0

    @torch.no_grad()
    def simulate(self, x: Tensor) -> Decoded:
        """Images (B, 3, H, W) in [0, 1] -> what `decode_all` makes of their streams.

        At the selected operating point, without gradients: a network is trained on it. A codec that
        knows it without making bytes need not make them.
        """
        self.fingerprint()  # builds the entropy tables
        with torch.autocast(self.device.type, enabled=False):
            payloads = self.encode(x)
            height, width = x.shape[-2:]
            return self.decode_all(payloads, height, width, [self.seed_of(p) for p in payloads])

    def format_config(self) -> dict[str, Any]:
        """Settings, other than weights, that a decoder must share with the encoder; JSON types."""
        return {}

    def decoding_state(self) -> dict[str, Tensor]:
        """The tensors that a decoder must share with the encoder."""
        return self.state_dict()

    def derived_state(self) -> set[str]:
        """Names of tensors that are no weights: they follow from the weights or the arguments."""
        return set()

    def save(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> Path:
        """Write the codec as a folder that `diffcodec.load` and `weights=` take.

        `config.json` has the constructor's arguments, `model.safetensors` the tensors; of parts
        that are frozen and can be had elsewhere it has the source alone.

        Args:
            folder: is made where there is none.
            dtype: of the tensors, as in `torch.float16`; None keeps them as they are, and with them
                the streams that the codec reads.

        Returns:
            The folder.

        Raises:
            ValueError: an argument cannot be written.
        """
        return save_model(self, folder, dtype=dtype)

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool | None = None,
        dtype: torch.dtype | None = None,
        message: str = "Upload the codec",
    ) -> str:
        """Upload that folder to a repository of the hub, which is made if there is none.

        Args:
            repository: `owner/repo`.
            private: of a repository that is made; None is the owner's default.
            dtype: as of `save`.
            message: of the commit.

        Returns:
            The source for `diffcodec.load`.

        Raises:
            ValueError: the codec is built on something that only this machine has.
        """
        return push_model(self, repository, private=private, dtype=dtype, message=message)

    def load_weights(self, source: str) -> None:
        """Load what `save` wrote.

        Args:
            source: see `diffcodec.weights`.

        Raises:
            ValueError: it cannot be had, or does not fit.
        """
        load_saved(self, state_dict_of(load_checkpoint(source)), source=source)

    def prepare_coding(self) -> None:
        """Build what is derived from the weights (entropy tables); called when they changed."""

    def fingerprint(self) -> bytes:
        """32 bytes that name this codec, its format settings and its weights."""
        key = self._weights_key()
        if self._fingerprint is None or self._fingerprint[0] != key:
            # Nor under autocast: of bfloat16 products come other tables.
            with (
                torch.inference_mode(False),
                torch.no_grad(),
                torch.autocast("cpu", enabled=False),
                torch.autocast(self.device.type, enabled=False),
            ):
                self.prepare_coding()
            key = self._weights_key()
            self._fingerprint = (key, self._hash())
        return self._fingerprint[1]

    def on_validation_epoch_start(self) -> None:
        # Weight averaging swaps weights through `.data`, which `_weights_key` cannot see.
        self._fingerprint = None

    def on_test_epoch_start(self) -> None:
        self._fingerprint = None

    def _weights_key(self) -> tuple[Any, ...]:
        # In-place writes (optimizer steps, load_state_dict, EMA) bump a tensor's version and
        # replacing it changes its id: equal keys mean equal weights, at no cost.
        tensors = [*self.parameters(), *self.buffers()]
        return (
            json.dumps(self.format_config(), sort_keys=True),
            *((id(t), t._version) for t in tensors),
        )

    def _hash(self) -> bytes:
        digest = hashlib.sha256(type(self).__qualname__.encode())
        digest.update(json.dumps(self.format_config(), sort_keys=True).encode())
        for name, tensor in sorted(self.decoding_state().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            # No weights are in float64, but noise levels are, whose last bits depend on the
            # processor that computed them.
            flat = flat.float() if flat.dtype == torch.float64 else flat
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        return digest.digest()

    @torch.no_grad()
    def compress(self, x: Tensor) -> list[bytes]:
        """Images (B, 3, H, W) in [0, 1], any H and W -> one self-contained stream per image.

        Raises:
            ValueError: the tensor is not such images, or the weights are not in float32, in which
                images are coded.
        """
        self._check_images(x)
        _check_weights(self)
        height, width = x.shape[-2:]
        fingerprint = self.fingerprint()
        with torch.autocast(self.device.type, enabled=False):
            payloads = self.encode(x.to(self.device, torch.float32))
        size = {"height": height, "width": width}
        if self.progressive:
            return [
                bitstream.pack_progressive(payload, fingerprint=fingerprint, **size)
                for (payload,) in payloads
            ]
        return [bitstream.pack(sections, fingerprint=fingerprint, **size) for sections in payloads]

    def _check_images(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
            raise ValueError(
                f"expected float images (B, 3, H, W) in [0, 1], got {x.dtype} {tuple(x.shape)}"
            )
        if x.shape[0] == 0:
            raise ValueError("no image to compress")
        if problem := self.size_problem(*x.shape[-2:]):
            raise ValueError(problem)
        low, high = x.aminmax()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"images must be in [0, 1], got [{low.item():g}, {high.item():g}]")

    def compress_batch(self, batch: Mapping[str, Any]) -> list[bytes]:
        """A batch of a datamodule -> streams. A codec may read more of it than the images."""
        return self.compress(batch["image"])

    def ceiling(self, x: Tensor) -> Tensor | None:
        """Images (B, 3, H, W) in [0, 1] -> the best pictures of them that any rate could give.

        None where nothing but the rate limits the codec.
        """
        return None

    @torch.no_grad()
    def decompress(self, streams: Sequence[bytes], seed: int | None = None) -> Tensor:
        """Streams of images of one size -> images (B, 3, H, W) in [0, 1].

        Args:
            streams: what `compress` returned, in this or another process.
            seed: of the decoder's noise. By default it is derived from each stream, so that the
                picture does not depend on batch, order or number of processes.

        Raises:
            BitstreamError: a stream is malformed, or of another codec or other weights.
            ValueError: there is no stream, or they hold images of different sizes.
        """
        if not streams:
            raise ValueError("no stream to decompress")
        contents = self._unpack(streams)
        sizes = {(c.height, c.width) for c in contents}
        if len(sizes) > 1:
            raise ValueError(f"streams of one call must hold images of one size, got {sizes}")
        height, width = sizes.pop()
        seeds = [self.seed_of(c.sections) if seed is None else seed for c in contents]
        with torch.autocast(self.device.type, enabled=False):
            x_hat = self.decode([list(c.sections) for c in contents], height, width, seeds)
        # What no encoder wrote may overflow in a decoder's networks. By the extremes, and in place:
        # of a large picture there is no room for many copies.
        if not torch.stack(x_hat.aminmax()).isfinite().all():
            raise BitstreamError("a stream decodes to values that are no finite numbers")
        # In place where it can be: a picture may be as large as memory allows.
        return x_hat.clamp_(0, 1) if x_hat.is_contiguous() else x_hat.clamp(0, 1)

    def seed_of(self, sections: Sequence[bytes]) -> int:
        """Seed of the decoder's noise where none is given: a function of the stream."""
        return derive_seed(sections)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> what is decoded of them, for gradients to flow through.

        At the selected operating point, without bytes, with straight-through rounding; not clamped.

        Raises:
            ValueError: this codec is not `differentiable`.
        """
        raise ValueError(f"no gradients flow through {type(self).__name__}")

    def point_facts(self, point: Point) -> dict[str, float]:
        """Numbers that a point stands for, to be shown next to what is measured there."""
        return {}

    def num_payload_bytes(self, stream: bytes) -> int:
        """Length of a stream without container header and checksum."""
        return self._unpack([stream])[0].num_payload_bytes

    def num_part_bytes(self, sections: Sequence[bytes]) -> dict[str, int]:
        """Bytes of what a paper counts apart, by name, such as `text` and `codes` of PerCo."""
        return {}

    def _unpack(self, streams: Sequence[bytes]) -> list[bitstream.Contents]:
        fingerprint = self.fingerprint()  # once: it looks at every tensor
        if self.progressive:
            return [
                bitstream.unpack_progressive(stream, fingerprint=fingerprint) for stream in streams
            ]
        return [
            bitstream.unpack(stream, num_sections=self.num_sections, fingerprint=fingerprint)
            for stream in streams
        ]

    def test_step(  # type: ignore[override]
        self, batch: dict[str, Any], batch_idx: int
    ) -> CodecOutput:
        """Really compress a batch of images of one size, and really decompress it at each point.

        The batch may be of no image; so is what is returned, then.
        """
        return self._code(batch, self._measured, ceiling=self._measures_ceiling)

    def validation_step(  # type: ignore[override]
        self, batch: dict[str, Any], batch_idx: int
    ) -> CodecOutput:
        """As `test_step`, at the selected point alone."""
        return self._code(batch, (self.point,))

    def _code(
        self, batch: dict[str, Any], points: Sequence[Point], *, ceiling: bool = False
    ) -> CodecOutput:
        if not len(batch["index"]):  # none of its images could be read, or all are measured
            return CodecOutput([], [], batch["image"], 0.0, [])
        self.select(self.encoding_point(points))
        self.fingerprint()  # builds the entropy tables, which is no part of coding an image
        start = self._clock()
        streams = self.compress_batch(batch)
        encoded = self._clock()
        decodings = list(self.decompress_at(streams, points))
        self.select(points[0])
        best = self.ceiling(batch["image"]) if ceiling else None
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
        self, streams: Sequence[bytes], points: Sequence[Point]
    ) -> Iterator[Decoding]:
        """What each of several operating points makes of the same streams, and how long it takes.

        What they share is done once (see `once`), and its time counts for each.
        """
        self._done = {}
        try:
            for point in points:
                self.select(point)
                arrived = self.cut(streams)
                self._seconds_saved = 0.0
                start = self._clock()
                x_hat = self.decompress(arrived)
                seconds = self._clock() - start + self._seconds_saved
                contents = self._unpack(arrived)
                yield Decoding(
                    point,
                    x_hat,
                    seconds / len(arrived),
                    num_bytes=[len(stream) for stream in arrived],
                    num_payload_bytes=[c.num_payload_bytes for c in contents],
                    num_part_bytes=[self.num_part_bytes(c.sections) for c in contents],
                )
        finally:
            self._done = None

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """A part of decoding that operating points may share: made once within `decompress_at`.

        Args:
            key: names all that the part depends on.
            make: makes it.
        """
        if self._done is None:
            return make()
        if key not in self._done:
            start = self._clock()
            made = make()
            self._done[key] = made, self._clock() - start
            return made
        known, seconds = self._done[key]
        self._seconds_saved += seconds
        result: T = known
        return result

    def encoding_point(self, points: Sequence[Point]) -> Point:
        """The point at which images are encoded for several that `measure` takes together."""
        return points[0]

    def cut(self, streams: Sequence[bytes]) -> list[bytes]:
        """What the selected point wants of streams: of a progressive codec, their beginnings."""
        return list(streams)

    def _clock(self) -> float:
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        return time.perf_counter()


def to_uint8(x: Tensor) -> Tensor:
    """Images in [0, 1] -> uint8, rounded and clamped: what a saved PNG holds."""
    return x.mul(255).round_().clamp_(0, 255).to(torch.uint8)


def _check_weights(codec: Codec) -> None:
    # Another precision makes other entropy tables, or none: streams that nobody else can read.
    # Parts that are held in bfloat16 to save memory say so, and convert what goes in and out.
    held = [m for m in codec.modules() if getattr(m, "held_in_bfloat16", False)]
    converted = {id(p) for m in held for p in m.parameters() if p.dtype == torch.bfloat16}
    for parameter in codec.parameters():
        if id(parameter) in converted:
            continue
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            dtype = str(parameter.dtype).removeprefix("torch.")
            raise ValueError(
                f"images are coded in float32, and the weights are {dtype}: convert the codec by "
                "codec.float(), or set trainer.precision=32 or bf16-mixed"
            )
