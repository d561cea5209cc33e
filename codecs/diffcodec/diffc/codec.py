"""DiffC as a codec: a latent is sent with less and less noise by reverse channel coding.

x -> autoencoder -> x0;   x_s = shared noise at first
    D(x_s; s) on both sides -> the sender sends indices of candidates near x0 -> x_n, n < s -> …
any prefix of the stream -> x_s -> the model denoises x_s to x0_hat -> autoencoder -> x_hat
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffcodec.coding.bits import BitReader, BitWriter, EndOfBitsError
from diffcodec.coding.bitstream import BitstreamError, fitting_payload
from diffcodec.diffc.channel import find_channel
from diffcodec.diffc.schedule import Schedule
from diffcodec.diffc.stream import code_for
from diffcodec.latent.backbone import Backbone
from diffcodec.latent.captions import Captioner
from diffcodec.latent.pixel import PixelBackbone
from diffcodec.points import Point, listed
from diffcodec.zero_shot import Message, ZeroShotCodec
from diffcodec.zero_shot.ladder import FIRST_BITS, STEP_BITS, Ladder, Level, first_index
from diffcodec.zero_shot.refinement import Refinement


@dataclass(frozen=True)
class Arrived(Message):
    """The contents of a stream or of a prefix.

    Attributes:
        levels: the levels, each with the indices of its complete chunks.
        ends: positions in bits at which the stream may be cut: the end of the first level, then
            the end of every chunk.
    """

    levels: list[tuple[Level, Tensor]]
    ends: list[int]


class DiffC(ZeroShotCodec):
    """Lossy compression with a pretrained diffusion model, progressive and without training.

    Theis et al., "Lossy compression with Gaussian diffusion", 2022; Vonderfecht & Liu, "Lossy
    compression with pretrained diffusion models", ICLR 2025.

    A stream contains:

    - 1 bit: whether there is a caption
    - 7 bits: the error of the first estimate
    - the caption, if any: 16 bits for its length in bytes, then the bytes
    - for each level, 2 bits for the error and the indices of its chunks

    Any prefix that contains the first level decodes.

    Args:
        backbone: the latent diffusion model, or a pixel model (`diffcodec.latent.pixel`).
        bpp: rate in bits per pixel of the whole file, one or several. The stream is cut after the
            last chunk that fits, but never before the end of the first level.
        decoder: `flow` (DiffC-F), `ancestral` (DiffC-A) or `mean`.
        channel: `nearest` or `poisson`; see `diffcodec.diffc.channel`.
        log2_candidates: log2 of the number of candidates of a chunk.
        chunk_bits: target KL divergence of a chunk in bits; see `diffcodec.diffc.schedule`. null
            selects the value that suits the number of candidates.
        growth: number of chunks of a level, as a fraction of all chunks before it.
        weights: null, or a source of `diffcodec.weights` with a backbone that `save` wrote because
            it is not available elsewhere.

    The other arguments are those of `diffcodec.zero_shot.ZeroShotCodec`. decoder, steps, caption
    and guidance may be lists; the points are all combinations.

    Raises:
        ValueError: an argument is not among its choices, or the weights do not fit.
    """

    progressive = True

    def __init__(
        self,
        backbone: Backbone | PixelBackbone,
        bpp: float | Sequence[float] = (0.0035, 0.01, 0.02, 0.033, 0.06),
        *,
        decoder: str | Sequence[str] = "flow",
        steps: int | Sequence[int] = 10,
        captioner: Captioner | None = None,
        caption: str | Sequence[str | None] | None = None,
        guidance: float | Sequence[float] = 1.0,
        sampler: str = "ddim",
        channel: str = "nearest",
        log2_candidates: int = 16,
        chunk_bits: float | None = None,
        growth: float = 0.25,
        grid_steps: int | None = None,
        text_coder: str = "dictionary",
        window: int | None = 256,
        decode_precision: str | int = "32",
        compile: bool = False,
        weights: str | None = None,
    ) -> None:
        for value in listed(bpp):
            if not value > 0:
                raise ValueError(f"bpp must be positive, got {value}")
        super().__init__(
            backbone,
            rate={"bpp": bpp if isinstance(bpp, float | int) else sorted(bpp)},
            decoder=decoder,
            steps=steps,
            captioner=captioner,
            caption=caption,
            guidance=guidance,
            sampler=sampler,
            grid_steps=grid_steps,
            text_coder=text_coder,
            window=window,
            decode_precision=decode_precision,
            compile=compile,
        )
        self.channel = find_channel(channel)(log2_candidates)
        bits = self.channel.useful_bits if chunk_bits is None else chunk_bits
        self.schedule = Schedule(growth, bits, self.channel.num_candidates)
        self._index_code = code_for(self.channel, bits)
        if weights is not None:
            self.load_weights(weights)

    def format_config(self) -> dict[str, Any]:
        return {
            **super().format_config(),
            "channel": type(self.channel).__name__,
            "log2_candidates": self.channel.log2_candidates,
            "chunk_bits": self.schedule.bits,
            "growth": self.schedule.growth,
        }

    def prefix(self, payload: bytes, height: int, width: int, point: Point) -> bytes:
        """The payload up to the last chunk that fits the point's rate; at least the first level."""
        room = 8 * _limit(height, width, point)
        ends = self._read(payload, height, width).ends
        end = max((end for end in ends if end <= room), default=ends[0])
        return payload[: -(-end // 8)]

    def encode(
        self,
        x: Tensor,
        point: Point,
        captions: Sequence[str | None] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> list[list[bytes]]:
        """See `Codec.encode`; `captions` override those of the captioner."""
        height, width = x.shape[-2:]
        limit = _limit(height, width, point)
        texts = self._captions(x, point, captions, about)
        # One image at a time: the rounding of a convolution depends on its batch size.
        sent = [
            self._send(image, caption, limit)
            for image, caption in zip(x.split(1), texts, strict=True)
        ]
        return [[self.prefix(payload, height, width, point)] for payload in sent]

    def _send(self, x: Tensor, caption: str | None, limit: int) -> bytes:
        """An image (1, 3, H, W) -> complete levels, up to the first that ends beyond `limit` bytes.

        If all levels fit, the payload contains all of them.
        """
        height, width = x.shape[-2:]
        x0 = self._latent_of(x)
        text = b"" if caption is None else self._text_bytes(caption)
        shared = self._refinement(height, width, caption, self.channel)
        writer = BitWriter()
        writer.write(caption is not None, 1)
        first = first_index(shared.error(x0))
        writer.write(first, FIRST_BITS)
        if caption is not None:
            self._write_caption(text, writer)
        ladder = self._ladder(height, width, first)
        level = None
        while not ladder.done and (level is None or writer.num_bits <= 8 * limit):
            index = ladder.index_of(shared.error(x0))
            level = ladder.open(index)
            writer.write(index, STEP_BITS)
            for number in shared.send(x0, level).tolist():
                self._index_code.write(number, writer)
        return writer.to_bytes()

    def _read(self, payload: bytes, height: int, width: int) -> Arrived:
        """Read a payload or a prefix of one.

        Raises:
            BitstreamError: the first level is incomplete, or bytes follow the last level.
        """
        reader = BitReader(payload)
        levels: list[tuple[Level, list[int]]] = []
        ends: list[int] = []
        caption = None
        try:
            has_caption, first = reader.read(1), reader.read(FIRST_BITS)
            if has_caption:
                caption = self._read_caption(reader)
            ladder = self._ladder(height, width, first)
            while not ladder.done:
                level = ladder.open(reader.read(STEP_BITS))
                indices: list[int] = []
                levels.append((level, indices))
                while len(indices) < level.count:
                    indices.append(self._index_code.read(reader))
                    if level.number > 0 or len(indices) == level.count:
                        ends.append(reader.num_read)
            if reader.num_left >= 8:
                raise BitstreamError("the stream has bytes after the last level")
        except EndOfBitsError:
            pass
        if not ends:
            raise BitstreamError("the stream is too short to decode an image")
        whole = [(level, torch.tensor(found)) for level, found in levels if found]
        return Arrived(caption, whole, ends)

    def _receive(self, message: Arrived, height: int, width: int) -> Refinement:
        """The contents of a stream or prefix -> the shared state at its end."""
        shared = self._refinement(height, width, message.caption, self.channel)
        for level, indices in message.levels:
            shared.receive(indices, level)
        return shared

    def _ladder(self, height: int, width: int, first: int) -> Ladder:
        counts = self.schedule.chunk_counts(self._num_values(height, width))
        return self._levels(counts, self.schedule.bits, height, width, first)


def _limit(height: int, width: int, point: Point) -> int:
    """The largest payload in bytes that fits a point's rate."""
    num_bytes = math.floor(point.setting("bpp", float) * height * width / 8)
    return fitting_payload(num_bytes, height=height, width=width)
