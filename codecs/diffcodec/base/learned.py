"""A codec around a CompressAI model: coding, entropy tables, training.

x -> g_a -> y -> h_a -> z -> factorized prior -> bytes
            y | h_s(z_hat) -> Gaussian conditional -> bytes
y_hat -> g_s -> x_hat
"""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from compressai.entropy_models import EntropyBottleneck, EntropyModel, GaussianConditional
from compressai.layers import CheckerboardMaskedConv2d, MaskedConv2d
from compressai.models import CompressionModel
from compressai.models.base import SCALES_LEVELS, SCALES_MAX, SCALES_MIN
from compressai.ops import compute_padding
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from diffcodec.bitstream import BitstreamError
from diffcodec.codec import Codec, Decoded
from diffcodec.diffusion.tiling import check_window
from diffcodec.entropy import (
    build_tables,
    check_symbols,
    guard_rans,
    rans_decode,
    rans_encode,
)
from diffcodec.model_folder import load_saved
from diffcodec.optimization import clip_network, hyperprior_optimizer
from diffcodec.padding import crop_center, pad_around
from diffcodec.points import Point
from diffcodec.tiles import by_tiles
from diffcodec.weights import load_checkpoint, remap, state_dict_of

STRIDE = 64  # of z: every model here halves the image six times
LATENT_STRIDE = 16  # of y
WINDOW = 1024
_PLACES_OF_Y = (STRIDE // LATENT_STRIDE) ** 2  # for one of z
HYPER_WINDOW = 64  # values of z a side that the hyper-synthesis sees at once


class LearnedCodec(Codec):
    """A codec around one CompressAI model: coding, entropy tables, optimizer.

    Images are coded one at a time: convolution libraries choose their algorithm by shape, so that
    entropy parameters computed in a batch can differ in the last bit from those of one image, and
    a decoder that sees another batch would lose the symbols. For the same reason the
    hyper-synthesis runs in float64 on the CPU while coding: a scale that rounds to another entry of
    the scale table on another device or number of threads would have to lie within 1e-13 of its
    border. That holds for the hyperpriors alone. Models with a context model (`mbt2018`,
    `cheng2020_*`, ELIC) also compute parameters in float32 from what was decoded so far: decode
    them where they were encoded.

    Images larger than a window are coded as wholes, but analysis and synthesis compute them in
    tiles with as much around each as a value of theirs depends on (`diffcodec.tiles`), which is
    found by trying: 32 pixels and 2 values of y for the hyperpriors, 144 pixels and 11 values for
    the farthest, ELIC and `cheng2020_attn`. What a tile gives is then what the whole gives, up to
    the last bit of a float. The hyper-synthesis goes the same way, in float64, so that its tiles
    differ by no more than its machines.

    Args:
        model: the network.
        window: side in pixels, a multiple of 64, of the tiles; smaller images are taken whole.
        lr: learning rate of the network (Adam), annealed to zero by a cosine over the run.
        aux_lr: learning rate of the quantiles of the factorized prior (auxiliary loss).
        points: operating points.

    Raises:
        ValueError: the window is no multiple of 64.
    """

    num_sections = 2
    differentiable = True

    def __init__(
        self,
        model: CompressionModel,
        *,
        lr: float,
        aux_lr: float,
        points: Sequence[Point],
        window: int = WINDOW,
    ) -> None:
        check_window(window, STRIDE)
        super().__init__(points)
        self.model = model
        self.window = window
        self.lr = lr
        self.aux_lr = aux_lr
        # In a tuple, so that it is no submodule: it is derived, not trained and not saved.
        self._hyper_synthesis: tuple[nn.Module, ...] = ()
        self.register_load_state_dict_pre_hook(_keep_derived)
        for transform in ("g_a", "h_a", "h_s"):
            # Under autocast: a bfloat16 latent of 100 is off by half a quantization step.
            if hasattr(model, transform):
                getattr(model, transform).register_forward_hook(_to_float32)

    def load_weights(self, source: str, key_table: Sequence[tuple[str, str | None]] = ()) -> None:
        """Load a checkpoint of this codec or of its bare CompressAI model.

        Args:
            source: as in `diffcodec.weights`.
            key_table: renames the keys of another implementation, see `diffcodec.weights.remap`.
        """
        state = remap(state_dict_of(load_checkpoint(source), prefix="model."), key_table)
        load_saved(self, {f"model.{k}": v for k, v in state.items()}, source=source)

    def derived_state(self) -> set[str]:
        return set(_derived_buffers(self))

    def prepare_coding(self) -> None:
        # Always on the CPU: tables that a GPU rounds otherwise would be another format.
        device = self.device
        self.model.cpu()
        for module in self.model.modules():
            if isinstance(module, GaussianConditional):
                module.scale_table = torch.tensor(_scale_table())
            if isinstance(module, EntropyModel):
                build_tables(module)
        if hasattr(self.model, "h_s"):
            float64 = _Float64(self.model.h_s)
            self._hyper_synthesis = (_Tiled(float64, HYPER_WINDOW, up=STRIDE // LATENT_STRIDE),)
        self.model.to(device)
        for module in self.model.modules():
            if isinstance(module, MaskedConv2d | CheckerboardMaskedConv2d):
                # Their first forward does it: without this the weights change under the hash.
                module.weight.mul_(module.mask)

    def encode(self, x: Tensor) -> list[list[bytes]]:
        with self._fitting(*x.shape[-2:]):
            return [self._encode_image(image) for image in x.split(1)]

    def decode(
        self, payloads: list[list[bytes]], height: int, width: int, seeds: list[int]
    ) -> Tensor:
        with self._fitting(height, width):
            return torch.cat([self._decode_image(payload, height, width) for payload in payloads])

    def decode_all(
        self, payloads: list[list[bytes]], height: int, width: int, seeds: list[int]
    ) -> Decoded:
        with self._fitting(height, width), self._synthesis_inputs() as latents:
            images = [self._decode_image(payload, height, width) for payload in payloads]
        return Decoded(torch.cat(images).clamp_(0, 1), torch.cat(latents))

    @torch.no_grad()
    def simulate(self, x: Tensor) -> Decoded:
        if self.training or hasattr(self.model, "context_prediction"):
            # Noise takes the place of rounding, or the context is not what was decoded.
            return super().simulate(x)
        pad, unpad = compute_padding(*x.shape[-2:], min_div=STRIDE)
        with torch.autocast(x.device.type, enabled=False), self._synthesis_inputs() as latents:
            x_hat = self._model_forward(F.pad(x, pad, mode="replicate"))
        return Decoded(F.pad(x_hat, unpad).clamp(0, 1), latents[-1])

    @contextmanager
    def _synthesis_inputs(self) -> Iterator[list[Tensor]]:
        """A list that gathers every y_hat that g_s is given."""
        latents: list[Tensor] = []
        hook = self.model.g_s.register_forward_pre_hook(lambda _, inputs: latents.append(inputs[0]))
        try:
            yield latents
        finally:
            hook.remove()

    def _encode_image(self, x: Tensor) -> list[bytes]:
        return self._model_encode(x)

    def _decode_image(self, payload: list[bytes], height: int, width: int) -> Tensor:
        return self._model_decode(payload, height, width)

    def _model_encode(self, x: Tensor, **options: Any) -> list[bytes]:
        with self._reproducible(), self._checked_symbols():
            out = self.model.compress(pad_around(x, STRIDE), **options)
        return [strings[0] for strings in out["strings"]]

    def _model_decode(
        self, payload: list[bytes], height: int, width: int, **options: Any
    ) -> Tensor:
        size = -(-height // STRIDE), -(-width // STRIDE)  # of z
        counts = self._symbols_of_sections(*size)
        strings = [
            [guard_rans(section, count)] for section, count in zip(payload, counts, strict=True)
        ]
        g_s, kept = self.model.g_s, _Keep()
        # What decompressing needs beside y_hat, of a large image as much as the picture itself, is
        # gone before the picture is made.
        self.model.g_s = kept
        try:
            with self._reproducible():
                self.model.decompress(strings, self._coding_shape(*size), **options)
        except (RuntimeError, ValueError, IndexError) as error:
            raise BitstreamError(f"the entropy decoder failed: {error}") from error
        finally:
            self.model.g_s = g_s
        del strings
        return crop_center(g_s(kept.input.pop()).clamp_(0, 1), height, width)

    def _symbols_of_sections(self, height: int, width: int) -> list[int]:
        """How many symbols each section holds, y first, for a z of that size."""
        places = height * width
        return [self.latent_channels * places * _PLACES_OF_Y, self._hyper_channels * places]

    @property
    def _hyper_channels(self) -> int:
        """The number of channels of z."""
        (model,) = (m for m in self.model.modules() if isinstance(m, EntropyBottleneck))
        return int(model.channels)

    @contextmanager
    def _fitting(self, height: int, width: int) -> Iterator[None]:
        """Compute the parts of the model by tiles for as long as an image is larger than them."""
        if max(height, width) <= self.window:
            yield
            return
        tiled = self._tiles()
        before = {name: getattr(self.model, name) for name in tiled}
        for name, part in tiled.items():
            setattr(self.model, name, part)
        gaussian = getattr(self.model, "gaussian_conditional", None)
        if gaussian is not None:  # CompressAI's own methods hold all symbols as Python's integers
            gaussian.compress = partial(_compress, gaussian)
            gaussian.decompress = partial(_decompress, gaussian)
        try:
            yield
        finally:
            for name, whole in before.items():
                setattr(self.model, name, whole)
            if gaussian is not None:
                del gaussian.compress, gaussian.decompress

    def _tiles(self) -> dict[str, nn.Module]:
        """Parts of the model that need the most memory -> the same by tiles."""
        model, window = self.model, self.window
        return {
            "g_a": _Tiled(model.g_a, window, down=LATENT_STRIDE),
            "g_s": _Tiled(model.g_s, window // LATENT_STRIDE, up=LATENT_STRIDE),
        }

    @contextmanager
    def _reproducible(self) -> Iterator[None]:
        """Compute the entropy parameters so that another machine computes the same."""
        if not self._hyper_synthesis:
            yield
            return
        h_s = self.model.h_s
        (self.model.h_s,) = self._hyper_synthesis
        try:
            yield
        finally:
            self.model.h_s = h_s

    @contextmanager
    def _checked_symbols(self) -> Iterator[None]:
        """Refuse what the entropy coder cannot code, see `check_symbols`."""
        models = [m for m in self.model.modules() if isinstance(m, EntropyModel)]
        for model in models:
            model.quantize = partial(_quantize, model)
        try:
            yield
        finally:
            for model in models:
                del model.quantize

    def reconstruct(self, x: Tensor) -> Tensor:
        """As `Codec.reconstruct`, by the model's own forward pass.

        For models with a context model that is not exactly what is decoded: their forward pass
        predicts from what was not rounded yet.
        """
        pad, unpad = compute_padding(*x.shape[-2:], min_div=STRIDE)
        latents: list[Tensor] = []

        def straight_through(module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
            (y_hat,), y = inputs, latents[-1]
            return y + (y_hat - y).detach()

        hooks = [
            self.model.g_a.register_forward_hook(lambda *call: latents.append(call[-1])),
            self.model.g_s.register_forward_pre_hook(straight_through),
        ]
        try:
            x_hat = self._model_forward(F.pad(x, pad, mode="replicate"))
        finally:
            for hook in hooks:
                hook.remove()
        return F.pad(x_hat, unpad)

    def _model_forward(self, x: Tensor) -> Tensor:
        x_hat: Tensor = self.model(x)["x_hat"]
        return x_hat

    @property
    def latent_channels(self) -> int:
        """The number of channels of y."""
        return next(p.shape[0] for p in reversed([*self.model.g_a.parameters()]) if p.ndim == 1)

    def _coding_shape(self, height: int, width: int) -> Any:
        """The shapes that the model's `decompress` asks for, given height and width of z."""
        return (height, width)

    def rate_distortion(self, x: Tensor) -> dict[str, Tensor]:
        """`loss`, `bpp_loss` and `mse_loss` (or `ms_ssim_loss`) of images (B, 3, H, W)."""
        raise NotImplementedError

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        with self._synthesis_inputs() as latents:
            out = self.rate_distortion(batch["image"])
        # Entropy tables span a range: what grows without bound leaves it, and costs escape codes.
        self.log("train/y_max", latents[-1].detach().abs().max())
        aux_loss = self.model.aux_loss()
        for name, value in out.items():
            self.log(f"train/{name}", value, prog_bar=name in ("loss", "bpp_loss"))
        self.log("train/aux_loss", aux_loss)
        return out["loss"] + aux_loss

    def configure_optimizers(self) -> Any:
        steps = self.trainer.estimated_stepping_batches
        return hyperprior_optimizer(self, lr=self.lr, aux_lr=self.aux_lr, num_steps=steps)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: Any = None, *_: Any, **__: Any
    ) -> None:
        clip_network(optimizer, gradient_clip_val)


class _Tiled(nn.Module):
    """A network, computed by tiles of inputs that are larger than a window.

    Args:
        network: of limited reach.
        window, up, down: as of `diffcodec.tiles.by_tiles`.
    """

    def __init__(self, network: nn.Module, window: int, *, up: int = 1, down: int = 1) -> None:
        super().__init__()
        self.network = network
        self.window = window
        self.scale = {"up": up, "down": down}

    def forward(self, x: Tensor) -> Tensor:
        return by_tiles(self.network, x, window=self.window, **self.scale)


def _scale_table() -> list[float]:
    """CompressAI's scales, evenly spaced by ratio, from the math library's exponential."""
    low, high = math.log(SCALES_MIN), math.log(SCALES_MAX)
    steps = SCALES_LEVELS - 1
    return [math.exp(low + i * (high - low) / steps) for i in range(SCALES_LEVELS)]


def _quantize(
    model: EntropyModel, inputs: Tensor, mode: str, means: Tensor | None = None
) -> Tensor:
    out: Tensor = type(model).quantize(model, inputs, mode, means)
    if mode == "symbols":
        check_symbols(out)
    return out


def _compress(
    model: EntropyModel, inputs: Tensor, indexes: Tensor, means: Tensor | None = None
) -> list[bytes]:
    symbols = model.quantize(inputs, "symbols", means)
    return [rans_encode(s, i, model) for s, i in zip(symbols, indexes, strict=True)]


def _decompress(
    model: EntropyModel,
    strings: Sequence[bytes],
    indexes: Tensor,
    dtype: torch.dtype = torch.float,
    means: Tensor | None = None,
) -> Tensor:
    pairs = zip(strings, indexes, strict=True)
    symbols = [rans_decode(string, index, model, guarded=True) for string, index in pairs]
    out: Tensor = model.dequantize(torch.stack(symbols), means, dtype)
    return out


class _Keep(nn.Module):
    """Keeps what a network would be given, in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.input: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.input.append(x)
        return x.new_zeros(())


class _Float64(nn.Module):
    """A copy of a network that computes in float64 on the CPU, on float32 inputs and outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).cpu().double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.network(x.cpu().double())
        return out.to(x)


def _to_float32(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.float()


def _derived_buffers(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Buffers of the entropy models: tables and constants, none of them learned."""
    return {
        f"{prefix}{name}.{key}": buffer
        for name, child in module.named_modules()
        if isinstance(child, EntropyModel)
        for key, buffer in child.named_buffers()
    }


def _keep_derived(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Put the module's own derived buffers into a state dict that is being loaded.

    The sizes of the tables depend on the weights, so those of a checkpoint do not fit a fresh
    module; they are rebuilt from the weights before the first image is coded.
    """
    state.update(_derived_buffers(module, prefix))
