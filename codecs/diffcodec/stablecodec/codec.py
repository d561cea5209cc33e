"""StableCodec: a latent that is coded with a few bits, and one step of a distilled U-Net.

x -> autoencoder, ELIC's analysis -> latent codec -> bytes -> y_hat
y_hat -> g_s -> U-Net at the last timestep -> its estimate of x0 + auxiliary decoder of y_hat
     -> autoencoder -> x_hat
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffcodec.codec import Codec, Decoded
from diffcodec.coding.latent_coder import LatentCoder, scale_table
from diffcodec.diffusion.tiling import blend_tiles, check_window
from diffcodec.latent.autoencoder import LatentSpace
from diffcodec.latent.backbone import Backbone, frozen
from diffcodec.latent.sdxl import SDXLBackbone
from diffcodec.networks.precision import check_precision, decoding_in
from diffcodec.networks.tiles import by_tiles
from diffcodec.points import Point, combine
from diffcodec.stablecodec.latent_codec import FourParts, LatentCodec
from diffcodec.stablecodec.layers import elic_analysis
from diffcodec.stablecodec.released import ELIC_TABLE, codec_state, is_released, merge
from diffcodec.weights.loading import load_checkpoint, load_strict, remap, state_dict_of
from diffcodec.weights.model_folder import load_saved

PROMPT = (
    "A high-resolution, 8K, ultra-realistic image with sharp focus, vibrant colors, and natural "
    "lighting."
)
STRIDE = 256  # pixels of a value of z
WINDOW = 1024
_OF_ELIC = 16  # pixels of a latent of ELIC's
# Tiles of networks of convolutions, which change nothing: ELIC's in pixels, the synthesis's in
# values of y. They see 144 pixels and 14 values far.
_ELIC_WINDOW, _Y_WINDOW = 1024, 64


class StableCodec(Codec):
    """Extreme compression by one-step diffusion (Zhang et al., ICCV 2025).

    The published checkpoints are of Stable Diffusion Turbo, one for each rate. Networks are those
    of the authors, bytes are this project's: real streams with a checksum, whose entropy parameters
    are computed in float64 on the CPU. Nothing is trained here.

    Images are padded to 256 pixels on the right and below, mirrored where they are large enough.
    Of larger images than a window the autoencoder and the U-Net see overlapping tiles, which are
    blended, where the authors' tiles have weights of their own.

    Args:
        backbone: Stable Diffusion Turbo, or any Stable Diffusion of the same sizes. It is changed.
        lmbda: weight of the rate that a checkpoint was trained with, its `ft` number: the name of
            its operating point.
        prompt: what the U-Net is told, of every image.
        M: channels of y.
        widths: channels of the two stages of the latent codec's analysis.
        elic_N, elic_M: channels of ELIC's analysis.
        window: side in pixels, a multiple of 256, up to which the autoencoder sees images whole.
        unet_window: side in latents, a multiple of the U-Net's coarsest grid, up to which it does.
        decode_precision: `32` or `bf16`, of the networks behind y_hat.
        compile: `torch.compile` the U-Net: minutes once, then faster.
        elic_weights: the file `elic_official.pth`, of which the analysis is used.
        weights: null (random), or a source of `diffcodec.weights`: a published checkpoint
            (`stablecodec_ft*.pkl`), which needs `elic_weights`, or what was saved here.

    Raises:
        ValueError: one of these is not among its choices, or weights do not fit.
    """

    num_sections = 2  # z and y
    requires_weights = True

    text: Tensor

    def __init__(
        self,
        backbone: Backbone,
        lmbda: float = 2,
        *,
        prompt: str = PROMPT,
        M: int = 320,
        widths: Sequence[int] = (192, 256),
        elic_N: int = 192,
        elic_M: int = 320,
        window: int = WINDOW,
        unet_window: int = 96,
        decode_precision: str | int = "32",
        compile: bool = False,
        elic_weights: str | None = None,
        weights: str | None = None,
    ) -> None:
        decode_precision = check_precision(decode_precision)
        check_window(window, STRIDE)
        if not isinstance(backbone, Backbone) or isinstance(backbone, SDXLBackbone):
            raise ValueError("StableCodec goes over Stable Diffusion Turbo, or another 2.x or 1.x")
        check_window(unet_window, backbone.stride)
        super().__init__(combine(rate={"lmbda": lmbda}))
        given = backbone.latents
        # Not the given one, whose weights a saved folder would take from where it is from.
        self.latents = LatentSpace(given.vae, patch=given.patch, window=window)
        self.latents.shift.copy_(given.shift)
        self.latents.scale.copy_(given.scale)
        channels = given.channels
        self.unet: Any = backbone.unet
        old = self.unet.conv_in
        self.unet.conv_in = nn.Conv2d(M, old.out_channels, 3, padding=1)
        self.unet.register_to_config(in_channels=M)
        self._stride = backbone.stride
        with torch.no_grad():
            self.register_buffer("text", backbone.embed_text([prompt]))
        self.prediction = backbone.prediction
        self.alphas_cumprod = backbone.alphas_cumprod
        self.codec = LatentCodec(channels, elic_M, M, widths)
        self.elic = elic_analysis(elic_N, elic_M)
        self.M = M
        self.unet_window = unet_window
        self.decode_precision = decode_precision
        self._coder: LatentCoder | None = None
        self._context: FourParts | None = None
        if weights is not None:
            self.load_weights(weights, elic_weights)
        frozen(self)
        if compile:
            self.unet.compile()

    def load_weights(self, source: str, elic: str | None = None) -> None:
        """Load a published checkpoint, or what was saved here.

        Args:
            source: as in `diffcodec.weights`.
            elic: of a published one, the file of ELIC.

        Raises:
            ValueError: it cannot be had or does not fit, or ELIC's is missing.
        """
        checkpoint = load_checkpoint(source)
        if not is_released(checkpoint):
            load_saved(self, state_dict_of(checkpoint), source=source)
            return
        if elic is None:
            raise ValueError(f"{source} needs ELIC's analysis: give codec.elic_weights=FILE")
        load_strict(self.codec, codec_state(checkpoint, self.codec), source=source)
        merge(self.latents.vae, checkpoint["state_dict_vae"], source=source)
        merge(self.unet, checkpoint["state_dict_unet"], source=source)
        state = remap(state_dict_of(load_checkpoint(elic)), ELIC_TABLE)
        load_strict(self.elic, state, source=elic)

    def derived_state(self) -> set[str]:
        tables = ("codec.gaussian_conditional.", "codec.entropy_bottleneck._")
        return {name for name in self.state_dict() if name.startswith(tables)}

    def format_config(self) -> dict[str, Any]:
        return {"M": self.M, "prediction": self.prediction, "unet_window": self.unet_window}

    def decoding_state(self) -> dict[str, Tensor]:
        of_latents = ("latents.vae.encoder.", "latents.vae.quant_conv.")
        encoder = (*of_latents, "elic.", "codec.g_a.", "codec.h_a.", *self.derived_state())
        state = {k: v for k, v in self.state_dict().items() if not k.startswith(encoder)}
        return {**state, **self._prepared()[0].tables()}

    def prepare_coding(self) -> None:
        scales = torch.tensor(scale_table())
        self._context = FourParts(self.codec)
        self._coder = LatentCoder(
            self.codec.entropy_bottleneck,
            self.codec.gaussian_conditional,
            self._context.h_s,
            channels=self.M,
            scales=scales,
            borders=scales[:-1].double(),
        )

    def _prepared(self) -> tuple[LatentCoder, FourParts]:
        if self._coder is None or self._context is None:
            self.prepare_coding()
        assert self._coder is not None
        assert self._context is not None
        return self._coder, self._context

    def encode(self, x: Tensor, point: Point) -> list[list[bytes]]:
        coder, context = self._prepared()
        payloads = []
        # One image at a time: what a convolution rounds depends on the batch it is part of.
        for image in x.split(1):
            y = self.analyse(image)
            payloads.append(coder.encode(y, self.codec.h_a(y), context))
        return payloads

    def decode(
        self,
        payloads: list[list[bytes]],
        height: int,
        width: int,
        seeds: list[int],
        point: Point,
    ) -> Decoded:
        coder, context = self._prepared()
        size = (-(-height // STRIDE), -(-width // STRIDE))
        latents = [coder.decode(payload, *size, context) for payload in payloads]
        with decoding_in(self.decode_precision, self.device):
            images = [self.synthesise(y_hat.to(self.device)) for y_hat in latents]
        return Decoded(torch.cat([image[..., :height, :width] for image in images]))

    def ceiling(self, x: Tensor) -> Tensor:
        return self.latents.round_trip(x)

    def analyse(self, x: Tensor) -> Tensor:
        """An image (1, 3, H, W) in [0, 1] -> y (1, M, h, w), of the image padded to 256 pixels."""
        x = _padded(x)
        of_elic = by_tiles(self.elic, x, window=_ELIC_WINDOW, down=_OF_ELIC)
        y: Tensor = self.codec.g_a(self.latents.encode(x), of_elic)
        return y

    def synthesise(self, y_hat: Tensor) -> Tensor:
        """y_hat (1, M, h, w) -> an image (1, 3, 64 h, 64 w), around [0, 1]."""
        up = STRIDE // 4 // self.latents.stride
        seen, added = (
            by_tiles(network, y_hat, window=_Y_WINDOW, up=up)
            for network in (self.codec.g_s, self.codec.aux)
        )
        latent = blend_tiles(
            partial(self._estimate, seen),
            (seen.shape[-2], seen.shape[-1]),
            self.unet_window,
            multiple=self._stride,
        )
        return self.latents.decode((latent + added).float())

    def _estimate(self, seen: Tensor, rows: slice, columns: slice) -> Tensor:
        """The U-Net's estimate of x0 from a part of what it sees, at the last timestep."""
        part = seen[..., rows, columns]
        time = torch.tensor(len(self.alphas_cumprod) - 1, device=part.device)
        out: Tensor = self.unet(part, time, encoder_hidden_states=self.text).sample
        x, abar = part[:, : self.latents.channels].float(), float(self.alphas_cumprod[-1])
        signal, noise = math.sqrt(abar), math.sqrt(1 - abar)
        if self.prediction == "eps":
            return (x - noise * out.float()) / signal
        return out.float() if self.prediction == "x0" else signal * x - noise * out.float()


def _padded(x: Tensor) -> Tensor:
    """An image on multiples of 256 pixels, mirrored to the right and below as the authors do."""
    down, right = (-side % STRIDE for side in x.shape[-2:])
    mirrored = down < x.shape[-2] and right < x.shape[-1]
    return F.pad(x, (0, right, 0, down), mode="reflect" if mirrored else "replicate")
