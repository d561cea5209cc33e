"""StableCodec: a latent coded with few bits, then one step of a distilled U-Net.

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
STRIDE = 256  # pixels per value of z, along a side
WINDOW = 1024
_OF_ELIC = 16  # pixels per value of ELIC's latent, along a side
# Tile sizes of the convolutional networks, ELIC's analysis in pixels and the synthesis in values of
# y. Their receptive fields reach 144 pixels and 14 values, so tiles do not change the result.
_ELIC_WINDOW, _Y_WINDOW = 1024, 64


class StableCodec(Codec):
    """Extreme compression by one-step diffusion (Zhang et al., ICCV 2025).

    The published checkpoints use Stable Diffusion Turbo, with one checkpoint per rate. The networks
    are those of the authors. The bitstream is this project's: real bytes with a checksum, whose
    entropy parameters are computed in float64 on the CPU. The codec has no training step.

    Images are padded at the right and bottom to multiples of 256 pixels, by reflection if they are
    large enough. In images larger than a window, the autoencoder and the U-Net process overlapping
    tiles, whose results are blended. The authors' implementation blends with other weights.

    Args:
        backbone: Stable Diffusion Turbo, or another Stable Diffusion of the same sizes. Its U-Net
            is modified in place.
        lmbda: weight of the rate in the training of a checkpoint, its `ft` number. It names the
            operating point.
        prompt: text condition of the U-Net for all images.
        M: number of channels of y.
        widths: channels of the two stages of the latent codec's analysis.
        elic_N, elic_M: channels of ELIC's analysis and of its latents.
        window: largest side in pixels, a multiple of 256, that the autoencoder processes whole.
        unet_window: largest side in latents, a multiple of the U-Net's coarsest grid, that the
            U-Net processes whole.
        decode_precision: precision of the networks that decode y_hat, `32` or `bf16`.
        compile: run `torch.compile` on the U-Net, which takes minutes once and speeds it up.
        elic_weights: file `elic_official.pth`, whose analysis is used.
        weights: null for random weights, or a source of `diffcodec.weights`: a published checkpoint
            (`stablecodec_ft*.pkl`), which needs `elic_weights`, or a model saved by this project.

    Raises:
        ValueError: an argument is not among its choices, or weights do not fit.
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
            raise ValueError("StableCodec needs Stable Diffusion Turbo, or another 1.x or 2.x")
        check_window(unet_window, backbone.stride)
        super().__init__(combine(rate={"lmbda": lmbda}))
        given = backbone.latents
        # A new LatentSpace: a saved folder would store the given one by its source only.
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
        """Load a published checkpoint, or a model saved by this project.

        Args:
            source: the checkpoint, as in `diffcodec.weights`.
            elic: the file of ELIC, required for a published checkpoint.

        Raises:
            ValueError: the checkpoint cannot be loaded or does not fit, or ELIC's is missing.
        """
        checkpoint = load_checkpoint(source)
        if not is_released(checkpoint):
            load_saved(self, state_dict_of(checkpoint), source=source)
            return
        if elic is None:
            raise ValueError(
                f"{source} needs ELIC's analysis transform: pass codec.elic_weights=FILE"
            )
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
        # One image at a time: the rounding of a convolution depends on its batch size.
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
        """An image (1, 3, H, W) in [0, 1], padded to multiples of 256 -> y (1, M, h, w)."""
        x = _padded(x)
        of_elic = by_tiles(self.elic, x, window=_ELIC_WINDOW, down=_OF_ELIC)
        y: Tensor = self.codec.g_a(self.latents.encode(x), of_elic)
        return y

    def synthesise(self, y_hat: Tensor) -> Tensor:
        """y_hat (1, M, h, w) -> an image (1, 3, 64 h, 64 w) in about [0, 1], not clamped."""
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
        """The U-Net's estimate of x0 from a tile of its input, at the last timestep."""
        part = seen[..., rows, columns]
        time = torch.tensor(len(self.alphas_cumprod) - 1, device=part.device)
        out: Tensor = self.unet(part, time, encoder_hidden_states=self.text).sample
        x, abar = part[:, : self.latents.channels].float(), float(self.alphas_cumprod[-1])
        signal, noise = math.sqrt(abar), math.sqrt(1 - abar)
        if self.prediction == "eps":
            return (x - noise * out.float()) / signal
        return out.float() if self.prediction == "x0" else signal * x - noise * out.float()


def _padded(x: Tensor) -> Tensor:
    """Pad an image to multiples of 256 pixels, at the right and bottom as the authors do."""
    down, right = (-side % STRIDE for side in x.shape[-2:])
    mirrored = down < x.shape[-2] and right < x.shape[-1]
    return F.pad(x, (0, right, 0, down), mode="reflect" if mirrored else "replicate")
