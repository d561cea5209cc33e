"""DDCM as a codec: a latent is sent as the noise of the steps that lead to it.

x -> autoencoder -> x0;   x_s = noise at first, on both sides
    D(x_s; s) on both sides -> the sender names M atoms that add up to what is missing -> x_n, n < s
bytes -> x_s -> the rest of the way by the model alone -> autoencoder -> x_hat
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
_ATOMS_LENGTH_BITS = 5  # of the number of bits of M
_RATES = ("bpp", "M", "psnr")
# What a target PSNR is given at most: over a bit per number of the latent there are faster codecs.
_MAX_ATOMS_SHARE = 8


@dataclass(frozen=True)
class Sent(Message):
    """What a stream says.

    Attributes:
        codebook: of its levels.
        levels: each with the numbers of its atoms.
    """

    codebook: Codebook
    levels: list[tuple[Level, Tensor]]


class DDCM(ZeroShotCodec):
    """Compression with a pretrained diffusion model whose noise is chosen from shared codebooks.

    Ohayon et al., "Compressed image generation with denoising diffusion codebook models", ICML
    2025; Vaisman et al., "Turbo-DDCM", ICLR 2026. Nothing is trained.

    A stream holds, in bits: one that says whether a caption follows, 7 for the error of the first
    estimate, 5 for the number of bits of M, the others of M; the caption, after its length in 16;
    then for each level 2 bits for the error at it and the ceil(log2 C(K, M)) + M bits of its atoms.
    The levels are chosen as DiffC's are: each goes as far as its atoms can tell the way (see
    `diffcodec.zero_shot.ladder`), where the paper has a table of timesteps for Stable Diffusion.

    Args:
        backbone: the latent diffusion model, or a model of pixels (`diffcodec.latent.pixel`).
        bpp: one or several rates, in bits per pixel of the whole file, from which M follows: the
            most atoms with which T levels fit, and then as many levels as fit. Where one atom is
            too many, there are fewer levels, but at least one.
        M: in place of `bpp`: atoms of each level.
        psnr: in place of `bpp`: for each image the least M, by bisection, with which its picture at
            the selected point reaches so many dB (Sec. 3.5), or what comes closest up to an eighth
            of the latent's numbers. It encodes about ten times.
        T: levels that carry bits, in 1 to 256, one evaluation of the network each; with `bpp`
            about so many. The paper's T includes the steps after them.
        log2_atoms: log2 of K, in 8 to 20. It is never less than the numbers of a latent.
        priority: a folder of maps for the images of a data set, see `diffcodec.ddcm.priority`; a
            map may also be given to `compress`.
        decoder: `flow`, `ancestral` or `mean`.
        weights: null, or a source of `diffcodec.weights`: of the backbone, where `save` wrote it
            because it can be had nowhere else.

    The other arguments are those of `diffcodec.zero_shot.ZeroShotCodec`. T, decoder, steps, caption
    and guidance may be lists: points are all combinations.

    Raises:
        ValueError: one of these is not among its choices, or the weights do not fit.
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
            raise ValueError(f"give one of {', '.join(_RATES)}, got {', '.join(given) or 'none'}")
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
        """As `Codec.encode`.

        Args:
            x: images (B, 3, H, W) in [0, 1].
            point: the operating point.
            captions: in place of the captioner's.
            about: the batch that the images are of, whose names are those of the maps.
            priority: weights of pixels, (B, 1, H, W), at least 0, of which only the proportions
                count: where an error is to weigh more. The decoder need not know them.

        Raises:
            ValueError: the weights are not such.
        """
        texts = self._captions(x, point, captions, about)
        maps = self._maps(x, about, priority)
        # One image at a time: what a convolution rounds depends on the batch it is part of.
        return [
            [self._send_at_the_rate(image, caption, weights, point)]
            for image, caption, weights in zip(x.split(1), texts, maps, strict=True)
        ]

    def _maps(
        self, x: Tensor, about: Mapping[str, Any] | None, priority: Tensor | None
    ) -> Sequence[Tensor | None]:
        """The weights of the pixels of each image."""
        size = (int(x.shape[-2]), int(x.shape[-1]))
        if priority is not None:
            expected = (len(x), 1, *size)
            if priority.shape != expected or not (priority >= 0).all():
                raise ValueError(
                    f"priority must be weights {expected}, at least 0, got "
                    f"{tuple(priority.shape)} from {priority.min().item():g} on"
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
        """PSNR in dB of the picture of a payload."""
        height, width = x.shape[-2:]
        x_hat = self.decode([[payload]], height, width, [derive_seed([payload])], point).x_hat
        error = (to_uint8(x_hat).double() - to_uint8(x).double()).square().mean()
        return 10 * math.log10(255**2 / max(float(error), 1e-10))

    def _fit(
        self, bpp: float, caption: str | None, height: int, width: int, T: int
    ) -> tuple[Codebook, int]:
        """The codebook, and how many of T levels, that a rate has room for."""
        size = self._num_atoms(height, width)
        container = pack([b""], height=height, width=width, fingerprint=bytes(FINGERPRINT_BYTES))
        room = 8 * (math.floor(bpp * height * width / 8) - len(container)) - 1 - FIRST_BITS
        if caption is not None:
            room -= CAPTION_LENGTH_BITS + 8 * len(self._text_bytes(caption))

        def fits(atoms: int) -> bool:
            left = room - _ATOMS_LENGTH_BITS - (atoms.bit_length() - 1)
            if T * (STEP_BITS + atoms + least_bits(size, atoms)) > left:
                return False  # without large integers
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
        """A latent (1, C, h, w) of a picture of a size -> a payload of so many levels."""
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
            BitstreamError: it is not what an encoder writes for a picture of that size.
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
            raise BitstreamError(f"a level of {atoms} atoms, of {size}")
        if atoms + least_bits(size, atoms) > reader.num_left:  # before it takes long to find out
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
        """What a stream says -> what the sender held at its end."""
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
        """K for a picture of a size: a power of two, no less than its latent has numbers."""
        return 1 << max(self.log2_atoms, (self._num_values(height, width) - 1).bit_length())
