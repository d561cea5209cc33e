"""The interface of every codec: images -> bytes -> images, at one of its operating points."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from diffcodec.coding import bitstream
from diffcodec.coding.bitstream import BitstreamError, derive_seed
from diffcodec.coding.fingerprint import Fingerprint, check_precision_of_weights
from diffcodec.measuring import CodecOutput, SharedWork, code_batch
from diffcodec.points import Point, find_points
from diffcodec.weights.configuration import Configured
from diffcodec.weights.model_folder import SavedModel

T = TypeVar("T")


@dataclass
class Decoded:
    """What a decoder knows of B images.

    Attributes:
        x_hat: reconstructions, (B, 3, H, W); a codec clamps them to [0, 1] when it decompresses.
        y_hat: quantized latents that they were made of, (B, C, h, w), of the images padded to
            multiples of 64 by `diffcodec.networks.padding.pad_around`; None where there are none.
        lmbda: rate-distortion weights that the streams say they were coded for, (B,); None where
            they do not say.
    """

    x_hat: Tensor
    y_hat: Tensor | None = None
    lmbda: Tensor | None = None


class Codec(Configured, SavedModel, LightningModule, ABC):
    """An image codec.

        x (B, 3, H, W) -> encode -> sections -> pack -> bytes
        bytes -> unpack -> sections -> decode -> x_hat (B, 3, H, W)

    A subclass implements `encode` and `decode` for its own sections. The container and its checks
    are here, the evaluation step is in `diffcodec.measuring`. The operating point is an argument of
    every call; a codec stores none. A codec with training adds `training_step` and
    `configure_optimizers`.

    Training on several processes matches training on one process, to rounding, if the random draws
    match: losses are means over images, and codebooks are averaged over all processes. Each process
    draws noise, timesteps and dropped conditions for its own images, so the weights of one and of
    two processes are two samples of the same training. The choice of images and crops does not
    depend on the number of processes.

    Args:
        points: the operating points that can be reached without retraining, as
            `diffcodec.points.combine` makes them of a codec's settings. Those of a progressive
            codec are in order of their rates.
    """

    num_sections: int = 1
    """How many byte strings `encode` returns for an image."""

    progressive: bool = False
    """Whether any prefix of a stream decodes, at lower quality; the stream has one section."""

    differentiable: bool = False
    """Whether `reconstruct` is implemented."""

    reads_annotations: bool = False
    """Whether `encode` takes `about`: a batch of the datamodule, with captions and names."""

    pretrained: bool = False
    """Whether its parts, such as the backbone, were loaded with trained weights."""

    requires_weights: bool = False
    """Whether it needs trained networks although it has no training step."""

    def __init__(self, points: Sequence[Point] = (Point("default"),)) -> None:
        super().__init__()
        if not points:
            raise ValueError("a codec needs at least one operating point")
        names = [point.name for point in points]
        if len(set(names)) != len(names):
            raise ValueError(f"operating points have duplicate names: {names}")
        self._points = tuple(points)
        self._fingerprint = Fingerprint()
        self._shared: SharedWork | None = None

    @property
    def points(self) -> tuple[Point, ...]:
        """The operating points reachable without retraining."""
        return self._points

    def find_point(self, point: Point | str | None) -> Point:
        """An operating point by itself, its name, or its rate if that is unique; None: the first.

        Raises:
            ValueError: the codec has no such point, or several.
        """
        if point is None:
            return self._points[0]
        (found,) = find_points(self._points, getattr(point, "name", point))
        return found

    @property
    def trainable(self) -> bool:
        """Whether this codec has a training step."""
        return is_overridden("training_step", self, LightningModule)

    @property
    def latent_channels(self) -> int:
        """Channels of the y_hat that `decode` returns; 0 where there is none."""
        return 0

    @abstractmethod
    def encode(self, x: Tensor, point: Point) -> list[list[bytes]]:
        """Images (B, 3, H, W) in [0, 1] -> `num_sections` byte strings per image."""

    @abstractmethod
    def decode(
        self,
        payloads: list[list[bytes]],
        height: int,
        width: int,
        seeds: list[int],
        point: Point,
    ) -> Decoded:
        """Sections and a noise seed per image -> images (B, 3, height, width).

        Raises:
            BitstreamError: the sections are not what `encode` writes.
        """

    def load_point(self, point: Point) -> None:
        """Load the network of a point, if each point has its own; called before every use."""

    def prepare_coding(self) -> None:
        """Build entropy tables and other derived state; called after the weights change."""

    def prepare_points(self, points: Sequence[Point]) -> None:
        """Find decoder settings for points, such as strengths; called at the start of a test."""

    def write_prepared(self, folder: str | Path) -> None:
        """Write the settings that `prepare_points` found into the folder of a run."""

    def size_problem(self, height: int, width: int) -> str | None:
        """The reason why images of this size in pixels are not supported, or None."""
        problems = (child.size_problem(height, width) for child in self._inner())
        return next(filter(None, problems), None) or bitstream.size_problem(height, width)

    @torch.no_grad()
    def simulate(self, x: Tensor, point: Point) -> Decoded:
        """Images (B, 3, H, W) in [0, 1] -> what `decode` makes of their streams, in [0, 1].

        Without gradients, for training a network on it. A codec may skip the bytes if the result is
        the same.
        """
        self.load_point(point)
        self.fingerprint()  # builds the entropy tables
        with torch.autocast(self.device.type, enabled=False):
            payloads = self.encode(x, point)
            seeds = [self.seed_of(payload) for payload in payloads]
            height, width = x.shape[-2:]
            decoded = self.decode(payloads, height, width, seeds, point)
        decoded.x_hat = decoded.x_hat.clamp(0, 1)
        return decoded

    def reconstruct(self, x: Tensor, point: Point) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> what is decoded of them, for gradients to flow through.

        Without bytes, with straight-through rounding; not clamped.

        Raises:
            ValueError: this codec is not `differentiable`.
        """
        raise ValueError(f"{type(self).__name__} is not differentiable")

    def ceiling(self, x: Tensor) -> Tensor | None:
        """Images (B, 3, H, W) in [0, 1] -> the best reconstruction at any rate.

        None if only the rate limits the codec.
        """
        return None

    def point_facts(self, point: Point) -> dict[str, float]:
        """Numbers to report beside the metrics of a point, such as its strength."""
        return {}

    def seed_of(self, sections: Sequence[bytes]) -> int:
        """The default seed of the decoder's noise, a function of the stream."""
        return derive_seed(sections)

    def prefix(self, payload: bytes, height: int, width: int, point: Point) -> bytes:
        """The prefix of a progressive payload that a point with a lower rate keeps."""
        return payload

    def format_config(self) -> dict[str, Any]:
        """Settings, other than weights, that a decoder must share with the encoder; JSON types."""
        return {}

    def decoding_state(self) -> dict[str, Tensor]:
        """The tensors that a decoder must share with the encoder."""
        return self.state_dict()

    def fingerprint(self) -> bytes:
        """32 bytes that name this codec, its format settings and its weights."""
        return self._fingerprint(self)

    def forget_fingerprint(self) -> None:
        """Recompute the fingerprint at the next call; weight averaging is not detected."""
        self._fingerprint.forget()
        for child in self._inner():
            child.forget_fingerprint()

    def on_validation_epoch_start(self) -> None:
        """Compute the fingerprint of the weights again, which training has changed."""
        self.forget_fingerprint()

    def validation_step(  # type: ignore[override]
        self, batch: dict[str, Any], batch_idx: int
    ) -> CodecOutput:
        """The evaluation step at the first operating point."""
        return code_batch(self, batch, self.points[:1])

    @torch.no_grad()
    def compress(self, x: Tensor, point: Point | str | None = None, **more: Any) -> list[bytes]:
        """Images (B, 3, H, W) in [0, 1], any H and W -> one self-contained stream per image.

        Args:
            x: the images.
            point: the operating point, its name, or its rate; None is the first.
            more: further arguments of this codec's `encode`, such as `captions` of PerCo.

        Raises:
            ValueError: the tensor is not such images, there is no such point, or the weights are
                not in float32, in which images are coded.
        """
        point = self.find_point(point)
        self._check_images(x)
        check_precision_of_weights(self)
        self.load_point(point)
        fingerprint = self.fingerprint()
        with torch.autocast(self.device.type, enabled=False):
            payloads = self.encode(x.to(self.device, torch.float32), point, **more)
        height, width = x.shape[-2:]
        return [self._pack(sections, height, width, fingerprint) for sections in payloads]

    @torch.no_grad()
    def decompress(
        self,
        streams: Sequence[bytes],
        point: Point | str | None = None,
        *,
        seed: int | None = None,
    ) -> Tensor:
        """Streams of images of one size -> images (B, 3, H, W) in [0, 1].

        Args:
            streams: what `compress` returned, in this or another process.
            point: the operating point, its name, or its rate; None is the first. A stream holds its
                own rate: of the point only the decoder's settings count.
            seed: of the decoder's noise. By default it is derived from each stream, so that the
                picture does not depend on batch, order or number of processes.

        Raises:
            BitstreamError: a stream is malformed, or of another codec or other weights.
            ValueError: there is no stream, no such point, or they hold images of different sizes.
        """
        if not streams:
            raise ValueError("no stream to decompress")
        point = self.find_point(point)
        self.load_point(point)
        contents = self.unpack(streams)
        sizes = {(c.height, c.width) for c in contents}
        if len(sizes) > 1:
            raise ValueError(f"all streams of a call must have one image size, got {sizes}")
        height, width = sizes.pop()
        seeds = [self.seed_of(c.sections) if seed is None else seed for c in contents]
        with torch.autocast(self.device.type, enabled=False):
            payloads = [list(c.sections) for c in contents]
            x_hat = self.decode(payloads, height, width, seeds, point).x_hat
        # What no encoder wrote may overflow in a decoder's networks. By the extremes, and in place:
        # of a large picture there is no room for many copies.
        if not torch.stack(x_hat.aminmax()).isfinite().all():
            raise BitstreamError("a stream decodes to NaN or Inf")
        # In place where it can be: a picture may be as large as memory allows.
        return x_hat.clamp_(0, 1) if x_hat.is_contiguous() else x_hat.clamp(0, 1)

    def cut(self, streams: Sequence[bytes], point: Point) -> list[bytes]:
        """The streams at a point; of a progressive codec, prefixes of the given ones."""
        if not self.progressive:
            return list(streams)
        fingerprint = self.fingerprint()
        arrived = []
        for stream, content in zip(streams, self.unpack(streams), strict=True):
            (payload,), height, width = content.sections, content.height, content.width
            kept = self.prefix(payload, height, width, point)
            arrived.append(stream[: len(self._pack([kept], height, width, fingerprint))])
        return arrived

    def num_payload_bytes(self, stream: bytes) -> int:
        """Length of a stream without container header and checksum."""
        return self.unpack([stream])[0].num_payload_bytes

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Compute a part of decoding that operating points share once within `sharing`.

        Args:
            key: identifies everything that the part depends on.
            make: computes the part.
        """
        return make() if self._shared is None else self._shared.get(key, make)

    @contextmanager
    def sharing(self) -> Iterator[SharedWork]:
        """Cache the results of `once` while the same streams are decoded at several points."""
        self._shared = SharedWork(self)
        try:
            yield self._shared
        finally:
            self._shared = None

    def _inner(self) -> "list[Codec]":
        """The codecs that this one is built on."""
        return [child for child in self.children() if isinstance(child, Codec)]

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

    def _pack(
        self, sections: Sequence[bytes], height: int, width: int, fingerprint: bytes
    ) -> bytes:
        about: Mapping[str, Any] = {"height": height, "width": width, "fingerprint": fingerprint}
        if self.progressive:
            return bitstream.pack_progressive(sections[0], **about)
        return bitstream.pack(sections, **about)

    def num_part_bytes(self, sections: Sequence[bytes]) -> dict[str, int]:
        """Bytes of what a paper counts apart, by name, such as `text` and `codes` of PerCo."""
        return {}

    def unpack(self, streams: Sequence[bytes]) -> list[bitstream.Contents]:
        """Size and sections of streams.

        Raises:
            BitstreamError: a stream is malformed, or of another codec or other weights.
        """
        fingerprint = self.fingerprint()  # once: it looks at every tensor
        if self.progressive:
            return [
                bitstream.unpack_progressive(stream, fingerprint=fingerprint) for stream in streams
            ]
        return [
            bitstream.unpack(stream, num_sections=self.num_sections, fingerprint=fingerprint)
            for stream in streams
        ]


def to_uint8(x: Tensor) -> Tensor:
    """Images in [0, 1] -> uint8, rounded and clamped: what a saved PNG holds."""
    return x.mul(255).round_().clamp_(0, 255).to(torch.uint8)
