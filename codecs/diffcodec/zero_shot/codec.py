"""A pretrained diffusion model as a zero-shot codec: the common part of DiffC and DDCM.

x -> autoencoder -> x0;   x_s = shared noise at first
    D(x_s; s) on both sides -> the method sends bits about x0 -> x_n, n < s -> …
    x_s -> the model denoises x_s to x0_hat -> autoencoder -> x_hat
"""

import hashlib
import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffcodec.codec import Codec, Decoded
from diffcodec.coding.bits import BitReader, BitWriter
from diffcodec.diffusion.denoiser import Denoiser
from diffcodec.diffusion.guidance import ClassifierFreeGuidance
from diffcodec.diffusion.sampler import find_sampler, seeded_noise
from diffcodec.diffusion.schedule import karras_sigmas
from diffcodec.diffusion.tiling import TiledDenoiser
from diffcodec.latent.autoencoder import LatentSpace
from diffcodec.latent.backbone import Backbone, frozen
from diffcodec.latent.captions import Captioner, choose_captions
from diffcodec.latent.pixel import PixelBackbone
from diffcodec.latent.process import LatentProcess, pure_noise
from diffcodec.latent.text_coding import find_text_coder
from diffcodec.latent.tokenizer import WordTokenizer, caption_words
from diffcodec.networks.padding import pad_to_multiple
from diffcodec.networks.precision import check_precision, decoding_in
from diffcodec.points import Point, combine, listed
from diffcodec.weights.configuration import is_by_reference
from diffcodec.zero_shot.ladder import Ladder
from diffcodec.zero_shot.refinement import Channel, Estimate, Refinement

DECODERS = ("flow", "ancestral", "mean")
FLOW_SAMPLERS = ("ddim", "dpmpp_2m")
CAPTION_LENGTH_BITS = 16
MAX_CAPTION_BYTES = (1 << CAPTION_LENGTH_BITS) - 1
_RHO = 1.0  # evenly spaced noise levels from the last received level on
_START_SEED = 0  # seed of the shared starting noise


@dataclass(frozen=True)
class Message:
    """The contents of a stream; a codec adds its own fields.

    Attributes:
        caption: the caption, or None.
    """

    caption: str | None


class ZeroShotCodec(Codec):
    """A codec in which encoder and decoder sample the same image with a pretrained diffusion model.

    Both start from shared noise. The encoder sends bits that steer the sampling to the image.

    Args:
        backbone: the latent diffusion model, or a pixel model (`diffcodec.latent.pixel`).
        rate, encoding: settings of the encoder: those that choose the rate, and all others; see
            `diffcodec.points.combine`.
        decoder: how to decode from the last received level: `flow` follows the probability-flow
            ODE, `ancestral` samples at random, and `mean` returns the denoiser's estimate, which
            has the least squared error.
        steps: number of steps of `flow` or `ancestral`, with one network evaluation each.
        captioner: images -> captions that condition the network; null sends no caption.
        caption: caption to send instead of the captioner's; null uses the captioner.
        guidance: scale of classifier-free guidance on the caption, after the last received level.
        sampler: sampler of `flow`: `ddim` or `dpmpp_2m`.
        grid_steps: number of evenly spaced timesteps to which the network's time is rounded; null
            selects all timesteps.
        text_coder: coder of captions: `dictionary` or `zlib`.
        window: largest side, in latents, that the network processes whole. Larger latents are
            processed in overlapping tiles of that side. null disables tiling.
        decode_precision: precision of the network in decoding, `32` or `bf16`.
        compile: run `torch.compile` on the network, which takes minutes once and speeds it up.

    Raises:
        ValueError: an argument is not among its choices.
    """

    requires_weights = True
    reads_annotations = True

    def __init__(
        self,
        backbone: Backbone | PixelBackbone,
        *,
        rate: Mapping[str, Any],
        encoding: Mapping[str, Any] | None = None,
        decoder: str | Sequence[str],
        steps: int | Sequence[int],
        captioner: Captioner | None,
        caption: str | Sequence[str | None] | None,
        guidance: float | Sequence[float],
        sampler: str,
        grid_steps: int | None,
        text_coder: str,
        window: int | None,
        decode_precision: str | int,
        compile: bool,
    ) -> None:
        decode_precision = check_precision(decode_precision)
        find_sampler(sampler)  # raises on an unknown name
        if sampler not in FLOW_SAMPLERS:
            raise ValueError(
                f"sampler={sampler} does not solve the probability-flow ODE: choose from "
                f"{', '.join(FLOW_SAMPLERS)}, or pass decoder=ancestral"
            )
        for name in listed(decoder):
            if name not in DECODERS:
                raise ValueError(f"unknown decoder {name!r}, choose from {', '.join(DECODERS)}")
        for count in listed(steps):
            if count < 1:
                raise ValueError(f"steps must be at least 1, got {count}")
        if not backbone.takes_text and any(text is not None for text in listed(caption)):
            raise ValueError(f"a pixel-space model takes no caption, got {caption!r}")
        if window is not None and (window < 1 or window % backbone.stride):
            raise ValueError(f"window must be a multiple of {backbone.stride}, got {window}")
        points = combine(
            rate=rate,
            encoding={**(encoding or {}), "caption": caption},
            decoding={"decoder": decoder, "steps": steps, "guidance": guidance},
        )
        super().__init__(points)
        self.captioner = captioner
        self.text_coder = text_coder
        self._encode_text, self._decode_text = find_text_coder(text_coder)
        self.backbone = backbone
        frozen(backbone)
        self.pretrained = backbone.trained
        with torch.no_grad():
            null = backbone.null_condition()
        self._null_names = [*null]
        for name, value in null.items():
            self.register_buffer(f"null_{name}", value)
        self.process = LatentProcess(
            backbone.alphas_cumprod,
            prediction=backbone.prediction,
            grid_steps=grid_steps or len(backbone.alphas_cumprod),
        )
        self.sampler = sampler
        self.window = window
        self.decode_precision = decode_precision
        if compile:
            backbone.compile()

    def derived_state(self) -> set[str]:
        by_reference = is_by_reference(self.backbone)
        return {f"null_{name}" for name in self._null_names} if by_reference else set()

    def format_config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
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

    def ceiling(self, x: Tensor) -> Tensor | None:
        latents = self.backbone.latents
        return latents.round_trip(x) if isinstance(latents, LatentSpace) else None

    def _captions(
        self,
        x: Tensor,
        point: Point,
        captions: Sequence[str | None] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> Sequence[str | None]:
        """The caption to send with each of the images (B, 3, H, W), or None.

        Raises:
            ValueError: there is a caption, but the network takes none.
        """
        fixed = point.encoding["caption"]
        captions = choose_captions(x, fixed, self.captioner, captions=captions, about=about)
        if not self.backbone.takes_text and any(text is not None for text in captions):
            raise ValueError(f"a pixel-space model takes no caption, got {captions[0]!r}")
        return captions

    def _text_bytes(self, caption: str) -> bytes:
        """Encode a caption.

        Raises:
            ValueError: the caption is too long.
        """
        text = self._encode_text(caption)
        if len(text) > MAX_CAPTION_BYTES:
            raise ValueError(f"a caption of {len(text)} bytes is over {MAX_CAPTION_BYTES}")
        return text

    def _write_caption(self, text: bytes, writer: BitWriter) -> None:
        """Write the length of an encoded caption, then its bytes."""
        writer.write(len(text), CAPTION_LENGTH_BITS)
        for byte in text:
            writer.write(byte, 8)

    def _read_caption(self, reader: BitReader) -> str:
        """Inverse of `_write_caption`.

        Raises:
            EndOfBitsError: the stream ends within the caption.
            BitstreamError: the bytes are not an encoded text.
        """
        num_bytes = reader.read(CAPTION_LENGTH_BITS)
        return self._decode_text(bytes(reader.read(8) for _ in range(num_bytes)))

    @abstractmethod
    def _read(self, payload: bytes, height: int, width: int) -> Message:
        """Read a payload.

        Raises:
            BitstreamError: no encoder writes this payload for an image of that size.
        """

    @abstractmethod
    def _receive(self, message: Any, height: int, width: int) -> Refinement:
        """The contents of a stream -> the shared state at its end."""

    def decode(
        self,
        payloads: list[list[bytes]],
        height: int,
        width: int,
        seeds: list[int],
        point: Point,
    ) -> Decoded:
        # Parse all streams first, so that a malformed one raises before any image is decoded.
        messages = [self._read(payload, height, width) for (payload,) in payloads]
        guidance = point.setting("guidance", float)
        images = []
        for (payload,), message, seed in zip(payloads, messages, seeds, strict=True):
            with decoding_in(self.decode_precision, self.device):
                shared = self.once(payload, partial(self._receive, message, height, width))
                guided = self._estimate(message.caption, (height, width), guidance)
                latent = self._show(shared, guided, seed, point)
            images.append(self._image_of(latent, height, width))
        return Decoded(torch.cat(images))

    def _latent_of(self, x: Tensor) -> Tensor:
        """An image (1, 3, H, W) -> x0 (1, C, h, w), padded to the size of `_start`."""
        height, width = x.shape[-2:]
        stride = self.backbone.latents.stride
        min_side = self._min_side(height, width) * stride
        return self.backbone.latents.encode(
            pad_to_multiple(x, stride * self.backbone.stride, min_side=min_side)
        )

    def _image_of(self, latent: Tensor, height: int, width: int) -> Tensor:
        """Inverse of `_latent_of`, up to the autoencoder's loss and rounding."""
        return self.backbone.latents.decode(latent)[..., :height, :width]

    def _start(self, height: int, width: int) -> tuple[Tensor, float]:
        """The shared starting noise (1, C, h, w) for an image size, and its noise level."""
        least, multiple = self._min_side(height, width), self.backbone.stride
        padded = [
            max(least, -(-side // multiple) * multiple) for side in self._latent_size(height, width)
        ]
        shape = (1, self.backbone.latents.channels, *padded)
        sigma = self.process.sigmas[-1]
        noise = seeded_noise(_START_SEED)(torch.empty(shape, device=self.device))
        return pure_noise(noise, sigma), float(sigma)

    def _refinement(
        self,
        height: int,
        width: int,
        caption: str | None,
        channel: Channel,
        *,
        shuffled: bool = True,
    ) -> Refinement:
        """The shared state before the first level."""
        estimate = self._estimate(caption, (height, width))
        x, sigma = self._start(height, width)
        size = self._latent_size(height, width)
        return Refinement(estimate, x, sigma, size=size, channel=channel, shuffled=shuffled)

    def _levels(
        self, counts: Iterator[int], bits: float, height: int, width: int, first: int
    ) -> Ladder:
        """The levels for an image size, with `counts` chunks of `bits` bits each."""
        return Ladder(
            counts,
            bits,
            num_values=self._num_values(height, width),
            sigma=float(self.process.sigmas[-1]),
            min_sigma=self._min_sigma,
            first=first,
        )

    def _show(self, shared: Refinement, guided: Estimate, seed: int, point: Point) -> Tensor:
        """The decoded latent at a point, (1, C, h, w).

        Args:
            shared: shared state after the last received level.
            guided: denoiser for the remaining steps.
            seed: seed of the noise of ancestral sampling.
            point: the operating point.
        """
        decoder, steps = point.setting("decoder", str), point.setting("steps", int)
        if decoder == "mean":
            return shared.x0
        sigmas = karras_sigmas(shared.sigma, steps, sigma_min=self._min_sigma, rho=_RHO)
        name = self.sampler if decoder == "flow" else "euler_sde"
        return find_sampler(name)(guided, shared.x, sigmas, noise=seeded_noise(seed))

    def _latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image's latent, without padding to the network's multiple."""
        stride = self.backbone.latents.stride
        return -(-height // stride), -(-width // stride)

    def _num_values(self, height: int, width: int) -> int:
        """The number of values of an image's latent."""
        return self.backbone.latents.channels * math.prod(self._latent_size(height, width))

    def _min_side(self, height: int, width: int) -> int:
        """The minimum side of an image's latent: that of a tile if it is tiled, else 0."""
        window = self.window or 0
        return window if max(self._latent_size(height, width)) > window else 0

    @property
    def _min_sigma(self) -> float:
        return float(self.process.sigmas[0])

    def _estimate(
        self, caption: str | None, size: tuple[int, int], guidance: float = 1.0
    ) -> Estimate:
        """The denoiser with a caption and the other conditions.

        Args:
            caption: the caption, or None.
            size: height and width of the image.
            guidance: scale of classifier-free guidance on the caption.
        """
        denoiser: Denoiser = self.process.denoiser(
            lambda *args, **condition: self.backbone.network(*args, **condition).float()
        )
        if self.window is not None:
            denoiser = TiledDenoiser(denoiser, self.window)
        null = {name: self.get_buffer(f"null_{name}") for name in self._null_names}
        null |= self.backbone.size_condition(*size)
        if caption is None:
            return lambda x, sigma: denoiser(x, sigma, **null)
        told = {**null, **self.backbone.text_condition([caption])}
        guided = ClassifierFreeGuidance(denoiser, guidance, null)
        return lambda x, sigma: guided(x, sigma, **told)
