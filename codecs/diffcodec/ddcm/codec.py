"""DDCM as a codec: a latent is sent as the noise of the sampling steps that lead to it.

x -> autoencoder -> x0;   x_s = shared noise at first
    D(x_s; s) on both sides -> the sender sends M atoms whose sum approximates x0 - D -> x_n, n < s
bytes -> x_s -> the model denoises x_s to x0_hat -> autoencoder -> x_hat
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any

from torch import Tensor

from diffcodec.codec import to_uint8
from diffcodec.coding.bits import BitReader, BitWriter, EndOfBitsError
from diffcodec.coding.bitstream import FINGERPRINT_BYTES, BitstreamError, derive_seed, pack
from diffcodec.coding.combinations import least_bits
from diffcodec.ddcm.codebook import Codebook
from diffcodec.ddcm.priority import read_map, weights_of_latents
from diffcodec.latent.backbone import Backbone
from diffcodec.latent.captions import Captioner
from diffcodec.latent.pixel import PixelBackbone
from diffcodec.points import Point, listed
from diffcodec.zero_shot import CAPTION_LENGTH_BITS, Message, ZeroShotCodec
from diffcodec.zero_shot.ladder import FIRST_BITS, STEP_BITS, Ladder, Level, first_index
from diffcodec.zero_shot.refinement import Refinement

MAX_LEVELS = 256
MIN_LOG2_ATOMS, MAX_LOG2_ATOMS = 8, 20
_ATOMS_LENGTH_BITS = 5  # bits for the number of bits of M
_RATES = ("bpp", "M", "psnr")
# A target PSNR gets at most 1 atom per 8 latent values: above one bit per value, other codecs are
# faster.
_MAX_ATOMS_SHARE = 8


@dataclass(frozen=True)
class Sent(Message):
    """The contents of a stream.

    Attributes:
        codebook: codebook of its levels.
        levels: the levels, each with the numbers of its atoms.
    """

    codebook: Codebook
    levels: list[tuple[Level, Tensor]]


class DDCM(ZeroShotCodec):
    """Compression with a pretrained diffusion model whose noise is chosen from shared codebooks.

    Ohayon et al., "Compressed image generation with denoising diffusion codebook models", ICML
    2025; Vaisman et al., "Turbo-DDCM", ICLR 2026. Nothing is trained.

    A stream contains:

    - 1 bit: whether there is a caption
    - 7 bits: the error of the first estimate
    - 5 bits for the number of bits of M, then the bits of M without the leading one
    - the caption, if any: 16 bits for its length in bytes, then the bytes
    - for each level, 2 bits for the error and ceil(log2 C(K, M)) + M bits for its atoms

    The noise levels are chosen as in DiffC: each step goes as far as the information in its atoms
    allows (see `diffcodec.zero_shot.ladder`). The paper uses a table of timesteps for Stable
    Diffusion instead.

    Args:
        backbone: the latent diffusion model, or a pixel model (`diffcodec.latent.pixel`).
        bpp: rate in bits per pixel of the whole file, one or several. M is the largest with which T
            levels fit; then as many levels are sent as fit. If T levels do not fit with M = 1,
            there are fewer levels, but at least one.
        M: number of atoms per level, instead of `bpp`.
        psnr: target PSNR in dB, instead of `bpp`. For each image, bisection finds the smallest M
            with which the reconstruction at the selected point reaches it (Sec. 3.5). M is at most
            an eighth of the number of latent values. Each image is encoded about ten times.
        T: number of levels that carry bits, in 1 to 256; approximate with `bpp`. Each takes one
            network evaluation. The paper's T includes the steps after them.
        log2_atoms: log2 of the number of atoms K, in 8 to 20. K is raised to at least the number of
            latent values.
        priority: folder of priority maps for the images of a dataset; see
            `diffcodec.ddcm.priority`. `compress` takes a map as well.
        decoder: `flow`, `ancestral` or `mean`.
        weights: null, or a source of `diffcodec.weights` with a backbone that `save` wrote because
            it is not available elsewhere.

    The other arguments are those of `diffcodec.zero_shot.ZeroShotCodec`. T, decoder, steps, caption
    and guidance may be lists; the points are all combinations.

    Raises:
        ValueError: an argument is not among its choices, or the weights do not fit.
    """

    def __init__(
        self,
        backbone: Backbone | PixelBackbone,
        bpp: float | Sequence[float] | None = None,
        *,
        M: int | Sequence[int] | None = None,
        psnr: float | Sequence[float] | None = None,
        T: int | Sequence[int] = 20,
        log2_atoms: int = 17,
        priority: str | None = None,
        decoder: str | Sequence[str] = "flow",
        steps: int | Sequence[int] = 10,
        captioner: Captioner | None = None,
        caption: str | Sequence[str | None] | None = None,
        guidance: float | Sequence[float] = 1.0,
        sampler: str = "ddim",
        grid_steps: int | None = None,
        text_coder: str = "dictionary",
        window: int | None = 256,
        decode_precision: str | int = "32",
        compile: bool = False,
        weights: str | None = None,
    ) -> None:
        rates = dict(zip(_RATES, (bpp, M, psnr), strict=True))
        given = {name: value for name, value in rates.items() if value is not None}
        if len(given) != 1:
            raise ValueError(
                f"pass exactly one of {', '.join(_RATES)}, got {', '.join(given) or 'none'}"
            )
        for name, values in given.items():
            for value in listed(values):
                if not value > 0:
                    raise ValueError(f"{name} must be positive, got {value}")
        for count in listed(T):
            if not 1 <= count <= MAX_LEVELS:
                raise ValueError(f"T must be in 1 to {MAX_LEVELS}, got {count}")
        if not MIN_LOG2_ATOMS <= log2_atoms <= MAX_LOG2_ATOMS:
            raise ValueError(
                f"log2_atoms must be in {MIN_LOG2_ATOMS} to {MAX_LOG2_ATOMS}, got {log2_atoms}"
            )
        super().__init__(
            backbone,
            rate=given,
            encoding={"T": T},
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
        self.log2_atoms = log2_atoms
        self.priority = priority
        if weights is not None:
            self.load_weights(weights)

    def format_config(self) -> dict[str, Any]:
        return {**super().format_config(), "log2_atoms": self.log2_atoms}

    def encode(
        self,
        x: Tensor,
        point: Point,
        captions: Sequence[str | None] | None = None,
        about: Mapping[str, Any] | None = None,
        priority: Tensor | None = None,
    ) -> list[list[bytes]]:
        """See `Codec.encode`.

        Args:
            x: images (B, 3, H, W) in [0, 1].
            point: the operating point.
            captions: captions that override those of the captioner.
            about: batch of the images, whose names select the priority maps.
            priority: weights of the errors of pixels, (B, 1, H, W), at least 0. Only their
                proportions matter. The decoder does not need them.

        Raises:
            ValueError: the weights have another shape or are negative.
        """
        texts = self._captions(x, point, captions, about)
        maps = self._maps(x, about, priority)
        # One image at a time: the rounding of a convolution depends on its batch size.
        return [
            [self._send_at_the_rate(image, caption, weights, point)]
            for image, caption, weights in zip(x.split(1), texts, maps, strict=True)
        ]

    def _maps(
        self, x: Tensor, about: Mapping[str, Any] | None, priority: Tensor | None
    ) -> Sequence[Tensor | None]:
        """The pixel weights of each image, or None."""
        size = (int(x.shape[-2]), int(x.shape[-1]))
        if priority is not None:
            expected = (len(x), 1, *size)
            if priority.shape != expected or not (priority >= 0).all():
                raise ValueError(
                    f"priority must have shape {expected} and no value below 0, got shape "
                    f"{tuple(priority.shape)} with minimum {priority.min().item():g}"
                )
            return priority.split(1)
        if self.priority is None or about is None:
            return [None] * len(x)
        return [read_map(self.priority, name, size) for name in about["name"]]

    def _send_at_the_rate(
        self, x: Tensor, caption: str | None, weights: Tensor | None, point: Point
    ) -> bytes:
        """The payload of an image (1, 3, H, W) at a point."""
        (name, rate), T = next(iter(point.rate.items())), int(point.encoding["T"] or 1)
        height, width = x.shape[-2:]
        size = self._num_atoms(height, width)
        x0 = self._latent_of(x)
        send = partial(self._send, x0, (height, width), caption, weights)
        value: Any = rate
        if name == "M":
            return send(Codebook(size, value), T)
        if name == "bpp":
            return send(*self._fit(value, caption, height, width, T))
        low, high = 0, 1
        best = send(Codebook(size, high), T)
        most = min(size // 2, max(1, self._num_values(height, width) // _MAX_ATOMS_SHARE))
        while self._psnr(best, x, point) < value and high < most:
            low, high = high, min(2 * high, most)
            best = send(Codebook(size, high), T)
        while high - low > 1:
            middle = (low + high) // 2
            payload = send(Codebook(size, middle), T)
            if self._psnr(payload, x, point) < value:
                low = middle
            else:
                high, best = middle, payload
        return best

    def _psnr(self, payload: bytes, x: Tensor, point: Point) -> float:
        """PSNR in dB of the reconstruction from a payload."""
        height, width = x.shape[-2:]
        x_hat = self.decode([[payload]], height, width, [derive_seed([payload])], point).x_hat
        error = (to_uint8(x_hat).double() - to_uint8(x).double()).square().mean()
        return 10 * math.log10(255**2 / max(float(error), 1e-10))

    def _fit(
        self, bpp: float, caption: str | None, height: int, width: int, T: int
    ) -> tuple[Codebook, int]:
        """The codebook and the number of levels for a rate; see the argument `bpp`."""
        size = self._num_atoms(height, width)
        container = pack([b""], height=height, width=width, fingerprint=bytes(FINGERPRINT_BYTES))
        room = 8 * (math.floor(bpp * height * width / 8) - len(container)) - 1 - FIRST_BITS
        if caption is not None:
            room -= CAPTION_LENGTH_BITS + 8 * len(self._text_bytes(caption))

        def fits(atoms: int) -> bool:
            left = room - _ATOMS_LENGTH_BITS - (atoms.bit_length() - 1)
            if T * (STEP_BITS + atoms + least_bits(size, atoms)) > left:
                return False  # a lower bound, which avoids large integers
            return T * (STEP_BITS + Codebook(size, atoms).num_bits) <= left

        low, high = 1, 2
        while high <= size // 2 and fits(high):
            low, high = high, min(2 * high, size // 2 + 1)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        codebook = Codebook(size, low)
        left = room - _ATOMS_LENGTH_BITS - (low.bit_length() - 1)
        return codebook, max(1, min(MAX_LEVELS, left // (STEP_BITS + codebook.num_bits)))

    def _send(
        self,
        x0: Tensor,
        size: tuple[int, int],
        caption: str | None,
        weights: Tensor | None,
        codebook: Codebook,
        num_levels: int,
    ) -> bytes:
        """A latent (1, C, h, w) of an image of `size` -> a payload of up to `num_levels` levels."""
        shared = self._walk(*size, caption, codebook)
        writer = BitWriter()
        writer.write(caption is not None, 1)
        first = first_index(shared.error(x0))
        writer.write(first, FIRST_BITS)
        length = codebook.atoms.bit_length()
        writer.write(length, _ATOMS_LENGTH_BITS)
        writer.write(codebook.atoms - (1 << length - 1), length - 1)
        if caption is not None:
            self._write_caption(self._text_bytes(caption), writer)
        scale: Tensor | float = 1.0
        if weights is not None:
            stride, (height, width) = self.backbone.latents.stride, x0.shape[-2:]
            scale = weights_of_latents(weights.to(x0), stride, (height, width))
        ladder = self._ladder(*size, first, codebook)
        for _ in range(num_levels):
            if ladder.done:
                break
            index = ladder.index_of(shared.error(x0))
            level = ladder.open(index)
            writer.write(index, STEP_BITS)
            codebook.write(shared.send(shared.x0 + scale * (x0 - shared.x0), level), writer)
        return writer.to_bytes()

    def _read(self, payload: bytes, height: int, width: int) -> Sent:
        """Read a payload.

        Raises:
            BitstreamError: no encoder writes this payload for an image of that size.
        """
        reader = BitReader(payload)
        size = self._num_atoms(height, width)
        try:
            has_caption, first = reader.read(1), reader.read(FIRST_BITS)
            length = reader.read(_ATOMS_LENGTH_BITS)
            atoms = (1 << length - 1) + reader.read(length - 1) if length else 0
            caption = self._read_caption(reader) if has_caption else None
        except EndOfBitsError:
            raise BitstreamError("the stream ends before its first level") from None
        if not 1 <= atoms <= size // 2:
            raise BitstreamError(
                f"atoms per level must be in 1 to {size // 2}, the stream has {atoms}"
            )
        # A lower bound: building the codebook of a hostile stream could take long.
        if atoms + least_bits(size, atoms) > reader.num_left:
            raise BitstreamError("the stream ends before its first level")
        codebook = Codebook(size, atoms)
        ladder = self._ladder(height, width, first, codebook)
        levels: list[tuple[Level, Tensor]] = []
        while reader.num_left >= STEP_BITS + codebook.num_bits:
            if ladder.done or len(levels) == MAX_LEVELS:
                raise BitstreamError("the stream has bytes after the last level")
            level = ladder.open(reader.read(STEP_BITS))
            levels.append((level, codebook.read(reader)))
        if not levels:
            raise BitstreamError("the stream ends before its first level")
        if reader.num_left >= 8 or reader.read(reader.num_left):
            raise BitstreamError("the stream does not end with its last level")
        return Sent(caption, codebook, levels)

    def _receive(self, message: Sent, height: int, width: int) -> Refinement:
        """The contents of a stream -> the shared state at its end."""
        shared = self._walk(height, width, message.caption, message.codebook)
        for level, numbers in message.levels:
            shared.receive(numbers, level)
        return shared

    def _walk(self, height: int, width: int, caption: str | None, codebook: Codebook) -> Refinement:
        return self._refinement(height, width, caption, codebook, shuffled=False)

    def _ladder(self, height: int, width: int, first: int, codebook: Codebook) -> Ladder:
        bits = codebook.useful_bits(self._num_values(height, width))
        return self._levels(repeat(1), bits, height, width, first)

    def _num_atoms(self, height: int, width: int) -> int:
        """K for an image size: a power of two, at least the number of latent values."""
        return 1 << max(self.log2_atoms, (self._num_values(height, width) - 1).bit_length())
