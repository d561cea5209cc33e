"""DiffC as a codec: a latent is sent with ever less noise, each time as numbers of random draws.

x -> autoencoder -> x0;   x_s = noise at first, on both sides
    D(x_s; s) on both sides -> the sender names the draw that leads towards x0 -> x_n, n < s -> …
bytes, whole or cut short -> x_s -> the rest of the way by the model alone -> autoencoder -> x_hat
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffcodec.bitstream import BitstreamError, fitting_payload, pack_progressive
from diffcodec.codec import Codec
from diffcodec.coding.bits import BitReader, BitWriter, EndOfBitsError
from diffcodec.configuration import is_by_reference
from diffcodec.diffc.channel import find_channel
from diffcodec.diffc.refinement import Estimate, Refinement
from diffcodec.diffc.schedule import FIRST_BITS, STEP_BITS, Ladder, Level, Schedule, first_index
from diffcodec.diffc.stream import code_for
from diffcodec.diffusion.denoiser import Denoiser
from diffcodec.diffusion.guidance import ClassifierFreeGuidance
from diffcodec.diffusion.sampler import find_sampler, seeded_noise
from diffcodec.diffusion.schedule import karras_sigmas
from diffcodec.diffusion.tiling import TiledDenoiser
from diffcodec.latent.autoencoder import LatentSpace
from diffcodec.latent.backbone import Backbone, frozen
from diffcodec.latent.pixel import PixelBackbone
from diffcodec.latent.process import LatentProcess, pure_noise
from diffcodec.latent.text_coding import find_text_coder
from diffcodec.latent.tokenizer import WordTokenizer, caption_words
from diffcodec.padding import pad_to_multiple
from diffcodec.points import Point, combine, listed
from diffcodec.precision import check_precision, decoding_in

DECODERS = ("flow", "ancestral", "mean")
FLOW_SAMPLERS = ("ddim", "dpmpp_2m")
MAX_CAPTION_BYTES = (1 << 16) - 1
_CAPTION_LENGTH_BITS = 16
_RHO = 1.0  # of the noise levels of the decoder's last part: evenly spaced
_START_SEED = 0  # of the noise that both sides start from


@dataclass(frozen=True)
class Arrived:
    """What a stream, or the beginning of one, says.

    Attributes:
        caption: None where there is none.
        levels: each with the indices of those of its chunks that are whole.
        ends: where chunks end, in bits, from the first place on where the stream may be cut.
    """

    caption: str | None
    levels: list[tuple[Level, Tensor]]
    ends: list[int]


class DiffC(Codec):
    """Lossy compression with a pretrained diffusion model, progressive and without training.

    Theis et al., "Lossy compression with Gaussian diffusion", 2022; Vonderfecht & Liu, "Lossy
    compression with pretrained diffusion models", ICLR 2025.

    A stream holds, in bits: one that says whether a caption follows, 7 for the error of the first
    estimate; the caption, after its length in 16; then for each level 2 bits for the error at it
    and the indices of its chunks. Any beginning that holds the first level decodes.

    Args:
        backbone: the latent diffusion model, or a model of pixels (`diffcodec.latent.pixel`).
        bpp: one or several rates, in bits per pixel of the whole file: the stream is cut at the
            last chunk that fits, but never before the end of the first level.
        decoder: `flow` (DiffC-F), the probability-flow ODE from the last level that arrived;
            `ancestral` (DiffC-A), samples of what would have been sent; `mean`, the denoiser's
            estimate, with the least squared error.
        steps: of the flow or of ancestral sampling, one evaluation of the network each.
        caption: a text that the network is told of, sent with every image; null is none.
        guidance: scale of the classifier-free guidance on the caption, in the decoder's last part.
            decoder, steps, caption and guidance may be lists: points are all combinations.
        sampler: of the flow: `ddim` or `dpmpp_2m`.
        channel: `nearest` or `poisson`, see `diffcodec.diffc.channel`.
        log2_candidates: log2 of the number of candidates of a chunk.
        chunk_bits: KL divergence that a chunk is meant to have, see `diffcodec.diffc.schedule`;
            null: what the candidates can tell.
        growth: chunks of a level as a share of all before it.
        grid_steps: timesteps that the network is told of, evenly spaced; null is all of them.
        text_coder: of the caption: `dictionary` or `zlib`.
        window: side in latents, up to which the network sees latents whole; others in overlapping
            tiles of that side. null: all of them whole.
        decode_precision: `32` or `bf16`, of the network in decoding.
        compile: `torch.compile` the network: minutes once, then faster.
        weights: null, or a source of `diffcodec.weights`: of the backbone, where `save` wrote it
            because it can be had nowhere else.

    Raises:
        ValueError: one of these is not among its choices, or the weights do not fit.
    """

    progressive = True
    requires_weights = True

    null_text: Tensor

    def __init__(
        self,
        backbone: Backbone | PixelBackbone,
        bpp: float | Sequence[float] = (0.0035, 0.01, 0.02, 0.033, 0.06),
        *,
        decoder: str | Sequence[str] = "flow",
        steps: int | Sequence[int] = 10,
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
        decode_precision = check_precision(decode_precision)
        find_sampler(sampler)  # is there
        if sampler not in FLOW_SAMPLERS:
            raise ValueError(
                f"sampler={sampler} does not follow the flow, choose from "
                f"{', '.join(FLOW_SAMPLERS)}, or decoder=ancestral"
            )
        for name in listed(decoder):
            if name not in DECODERS:
                raise ValueError(f"unknown decoder {name!r}, choose from {', '.join(DECODERS)}")
        for rate in listed(bpp):
            if not rate > 0:
                raise ValueError(f"bpp must be positive, got {rate}")
        for count in listed(steps):
            if count < 1:
                raise ValueError(f"steps must be at least 1, got {count}")
        if not backbone.takes_text and any(text is not None for text in listed(caption)):
            raise ValueError(f"a model of pixels takes no caption, got {caption!r}")
        if window is not None and (window < 1 or window % backbone.stride):
            raise ValueError(f"window must be a multiple of {backbone.stride}, got {window}")
        super().__init__(
            combine(
                rate={"bpp": bpp},
                encoding={"caption": caption},
                decoding={"decoder": decoder, "steps": steps, "guidance": guidance},
            )
        )
        self.backbone = backbone
        frozen(backbone)
        self.pretrained = backbone.trained
        with torch.no_grad():
            self.register_buffer("null_text", backbone.null_text())
        self.process = LatentProcess(
            backbone.alphas_cumprod,
            prediction=backbone.prediction,
            grid_steps=grid_steps or len(backbone.alphas_cumprod),
        )
        self.channel = find_channel(channel)(log2_candidates)
        bits = self.channel.useful_bits if chunk_bits is None else chunk_bits
        self.schedule = Schedule(growth, bits, self.channel.num_candidates)
        self._index_code = code_for(self.channel, bits)
        self.sampler = sampler
        self.text_coder = text_coder
        self._encode_text, self._decode_text = find_text_coder(text_coder)
        self.window = window
        self.decode_precision = decode_precision
        if compile:
            backbone.compile()
        if weights is not None:
            self.load_weights(weights)

    def derived_state(self) -> set[str]:
        return {"null_text"} if is_by_reference(self.backbone) else set()

    def format_config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "channel": type(self.channel).__name__,
            "log2_candidates": self.channel.log2_candidates,
            "chunk_bits": self.schedule.bits,
            "growth": self.schedule.growth,
            "text_coder": self.text_coder,
            "timesteps": self.process.timesteps.tolist(),
            "prediction": self.process.prediction,
            "window": self.window,
        }
        if self.text_coder == "dictionary" or isinstance(self.backbone.tokenizer, WordTokenizer):
            config["words"] = hashlib.sha256(caption_words().encode()).hexdigest()
        return config

    def decoding_state(self) -> dict[str, Tensor]:
        encoder = ("backbone.latents.vae.encoder.", "backbone.latents.vae.quant_conv.")
        state = {k: v for k, v in self.state_dict().items() if not k.startswith(encoder)}
        return {"sigmas": self.process.sigmas, **state}

    def encoding_point(self, points: Sequence[Point]) -> Point:
        def rate(point: Point) -> Any:
            return point.rate["bpp"]

        return max(points, key=rate)

    def cut(self, streams: Sequence[bytes]) -> list[bytes]:
        arrived = []
        for stream, contents in zip(streams, self._unpack(streams), strict=True):
            (payload,), height, width = contents.sections, contents.height, contents.width
            kept = pack_progressive(
                self._fit(payload, height, width),
                height=height,
                width=width,
                fingerprint=self.fingerprint(),
            )
            arrived.append(stream[: len(kept)])
        return arrived

    def _fit(self, payload: bytes, height: int, width: int) -> bytes:
        """A payload up to the last chunk that the selected rate has room for.

        Never less than the first level.
        """
        room = 8 * self._limit(height, width)
        ends = self._read(payload, height, width).ends
        end = max((end for end in ends if end <= room), default=ends[0])
        return payload[: -(-end // 8)]

    def _limit(self, height: int, width: int) -> int:
        """The most bytes of a payload that the selected rate has room for."""
        rate: Any = self.point.rate["bpp"]
        num_bytes = math.floor(rate * height * width / 8)
        return fitting_payload(num_bytes, height=height, width=width)

    def encode(self, x: Tensor) -> list[list[bytes]]:
        height, width = x.shape[-2:]
        limit = self._limit(height, width)
        caption: Any = self.point.encoding["caption"]
        # One image at a time: what a convolution rounds depends on the batch it is part of.
        sent = [self._send(image, caption, limit) for image in x.split(1)]
        return [[self._fit(payload, height, width)] for payload in sent]

    def _send(self, x: Tensor, caption: str | None, limit: int) -> bytes:
        """An image (1, 3, H, W) -> whole levels, the last of which ends beyond `limit` bytes."""
        height, width = x.shape[-2:]
        stride = self.backbone.latents.stride
        min_side = self._min_side(height, width) * stride
        padded = pad_to_multiple(x, stride * self.backbone.stride, min_side=min_side)
        x0 = self.backbone.latents.encode(padded)
        text = b"" if caption is None else self._encode_text(caption)
        if len(text) > MAX_CAPTION_BYTES:
            raise ValueError(f"a caption of {len(text)} bytes is over {MAX_CAPTION_BYTES}")
        shared = self._refinement(height, width, self._estimate(caption))
        writer = BitWriter()
        writer.write(caption is not None, 1)
        first = first_index(shared.error(x0))
        writer.write(first, FIRST_BITS)
        if caption is not None:
            writer.write(len(text), _CAPTION_LENGTH_BITS)
            for byte in text:
                writer.write(byte, 8)
        ladder = self._ladder(height, width, first)
        level = None
        while not ladder.done and (level is None or writer.num_bits <= 8 * limit):
            index = ladder.index_of(shared.error(x0))
            level = ladder.open(index)
            writer.write(index, STEP_BITS)
            for number in shared.send(x0, level).tolist():
                self._index_code.write(number, writer)
        return writer.to_bytes()

    def decode(
        self, payloads: list[list[bytes]], height: int, width: int, seeds: list[int]
    ) -> Tensor:
        # All streams are read before the first picture is made: a bad one is known at once.
        contents = [self._read(payload, height, width) for (payload,) in payloads]
        images = []
        for (payload,), arrived, seed in zip(payloads, contents, seeds, strict=True):
            with decoding_in(self.decode_precision, self.device):
                receive = partial(self._receive, arrived, height, width)
                shared = self.once(payload, receive)
                latent = self._show(shared, arrived.caption, seed)
            images.append(self.backbone.latents.decode(latent)[..., :height, :width])
        return torch.cat(images)

    def ceiling(self, x: Tensor) -> Tensor | None:
        latents = self.backbone.latents
        return latents.round_trip(x) if isinstance(latents, LatentSpace) else None

    def _read(self, payload: bytes, height: int, width: int) -> Arrived:
        """Read what arrived of a stream.

        Raises:
            BitstreamError: the first level is not whole, or more follows than an encoder writes.
        """
        reader = BitReader(payload)
        levels: list[tuple[Level, list[int]]] = []
        ends: list[int] = []
        caption = None
        try:
            has_caption, first = reader.read(1), reader.read(FIRST_BITS)
            if has_caption:
                num_bytes = reader.read(_CAPTION_LENGTH_BITS)
                caption = self._decode_text(bytes(reader.read(8) for _ in range(num_bytes)))
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
            raise BitstreamError("too little of the stream arrived to make a picture")
        whole = [(level, torch.tensor(found)) for level, found in levels if found]
        return Arrived(caption, whole, ends)

    def _receive(self, arrived: Arrived, height: int, width: int) -> Refinement:
        """What arrived of a stream -> what the sender held then."""
        shared = self._refinement(height, width, self._estimate(arrived.caption))
        for level, indices in arrived.levels:
            shared.receive(indices, level)
        return shared

    def _show(self, shared: Refinement, caption: str | None, seed: int) -> Tensor:
        """What both sides hold -> the latent to show, (1, C, H, W)."""
        settings: Any = self.point.decoding
        if settings["decoder"] == "mean":
            return shared.x0
        guided = self._estimate(caption, settings["guidance"])
        sigmas = karras_sigmas(shared.sigma, settings["steps"], sigma_min=self._min_sigma, rho=_RHO)
        name = self.sampler if settings["decoder"] == "flow" else "euler_sde"
        noise = seeded_noise(seed)
        return find_sampler(name)(guided, shared.x, sigmas, noise=noise)

    def _refinement(self, height: int, width: int, estimate: Estimate) -> Refinement:
        """The start of both sides: the same noise."""
        size = self._latent_size(height, width)
        least, multiple = self._min_side(height, width), self.backbone.stride
        padded = [max(least, -(-side // multiple) * multiple) for side in size]
        shape = (1, self.backbone.latents.channels, *padded)
        sigma = self.process.sigmas[-1]
        noise = seeded_noise(_START_SEED)(torch.empty(shape, device=self.device))
        return Refinement(
            estimate, pure_noise(noise, sigma), float(sigma), size=size, channel=self.channel
        )

    def _ladder(self, height: int, width: int, first: int) -> Ladder:
        num_values = self.backbone.latents.channels * math.prod(self._latent_size(height, width))
        sigma = float(self.process.sigmas[-1])
        return Ladder(self.schedule, num_values, sigma, self._min_sigma, first)

    def _latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the latents that a picture lies on."""
        stride = self.backbone.latents.stride
        return -(-height // stride), -(-width // stride)

    def _min_side(self, height: int, width: int) -> int:
        """Of the latents of a picture: of those that are cut into tiles, a tile's."""
        window = self.window or 0
        return window if max(self._latent_size(height, width)) > window else 0

    @property
    def _min_sigma(self) -> float:
        return float(self.process.sigmas[0])

    def _estimate(self, caption: str | None, guidance: float = 1.0) -> Estimate:
        """The denoiser with the caption, or without."""
        denoiser: Denoiser = self.process.denoiser(
            lambda *args, **condition: self.backbone.network(*args, **condition).float()
        )
        if self.window is not None:
            denoiser = TiledDenoiser(denoiser, self.window)
        if caption is None:
            return lambda x, sigma: denoiser(x, sigma, text=self.null_text)
        text = self.backbone.embed_text([caption])
        guided = ClassifierFreeGuidance(denoiser, guidance, {"text": self.null_text})
        return lambda x, sigma: guided(x, sigma, text=text)
