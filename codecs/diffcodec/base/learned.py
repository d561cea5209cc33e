"""A codec around a CompressAI model: transforms, entropy coding, training.

x -> g_a -> y -> h_a -> z
y, z -> `LatentCoder` -> bytes -> y_hat
y_hat -> g_s -> x_hat
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from compressai.entropy_models import EntropyModel, GaussianConditional
from compressai.layers import CheckerboardMaskedConv2d, MaskedConv2d
from compressai.models import CompressionModel
from compressai.ops import compute_padding
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from diffcodec.codec import Codec, Decoded
from diffcodec.coding.hyper_synthesis import ScalesThenMeans
from diffcodec.coding.latent_coder import (
    ContextModel,
    LatentCoder,
    scale_table,
    scales_then_means,
)
from diffcodec.diffusion.tiling import check_window
from diffcodec.networks.padding import crop_center, pad_around
from diffcodec.networks.tiles import Network, by_tiles
from diffcodec.points import Point
from diffcodec.training.optimization import clip_network, hyperprior_optimizer
from diffcodec.weights.loading import load_checkpoint, remap, state_dict_of
from diffcodec.weights.model_folder import load_saved

STRIDE = 64  # pixels per value of z, along a side; every model here downsamples six times
LATENT_STRIDE = 16  # pixels per value of y, along a side
WINDOW = 1024


class LearnedCodec(Codec):
    """A codec around one CompressAI model: transforms, entropy coding, optimizer.

    The codec uses the model's networks and codes the latents with a
    `diffcodec.coding.latent_coder.LatentCoder`. Subclasses define the prediction of y.

    Streams of the hyperpriors decode on every machine. Models with a context model (`mbt2018`,
    `cheng2020_*`, ELIC) also compute parameters in float32 from decoded values, so decode their
    streams on the machine that encoded them. Images are coded one at a time: convolution libraries
    choose their algorithm by shape, so a context model's result in a batch can differ in the last
    bit from that for a single image.

    In images larger than a window, analysis and synthesis process tiles with margins as wide as
    their receptive field (`diffcodec.networks.tiles`), which is measured. The hyperpriors need 32
    pixels and 2 values of y. The widest margins, of ELIC and `cheng2020_attn`, are 144 pixels and
    11 values. The results equal those for the whole image, up to the last bit of a float. All tiles
    share one stream.

    Args:
        model: the network.
        window: side of a tile in pixels, a multiple of 64 and at least `min_window`; smaller images
            are processed whole.
        lr: learning rate of the network (Adam), annealed to zero by a cosine over the run.
        aux_lr: learning rate of the quantiles of the factorized prior (auxiliary loss).
        points: the operating points.

    Raises:
        ValueError: the window is not a multiple of 64, or is smaller than `min_window`.
    """

    num_sections = 2  # z and y
    differentiable = True

    min_window: int = STRIDE
    """The smallest window that exceeds the margins. Where a subclass does not set it, a window that
    is too small is found when the first image larger than it is coded."""

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
        if window < self.min_window:
            raise ValueError(
                f"window must be at least {self.min_window}, because the transforms of this codec "
                f"need wide margins, got {window}"
            )
        super().__init__(points)
        self.model: Any = model
        self.window = window
        self.lr = lr
        self.aux_lr = aux_lr
        self._coder: LatentCoder | None = None
        # Copies of g_a and g_s for CPUs, in a plain dict: neither trained nor saved.
        self._on_cpus: dict[str, Network] = {}
        self.register_load_state_dict_pre_hook(_keep_derived)
        for transform in (model.g_a, self.hyperprior.h_a, self.hyperprior.h_s):
            # Under autocast, a bfloat16 latent of 100 has an error of half a quantization step.
            transform.register_forward_hook(_to_float32)

    @property
    def hyperprior(self) -> Any:
        """The module with the model's `h_a`, `h_s` and `entropy_bottleneck`."""
        return self.model

    def load_weights(self, source: str, key_table: Sequence[tuple[str, str | None]] = ()) -> None:
        """Load a checkpoint of this codec or of its bare CompressAI model.

        Args:
            source: the checkpoint, as in `diffcodec.weights`.
            key_table: table that renames the keys of another implementation; see
                `diffcodec.weights.loading.remap`.
        """
        state = remap(state_dict_of(load_checkpoint(source), prefix="model."), key_table)
        load_saved(self, {f"model.{k}": v for k, v in state.items()}, source=source)

    def derived_state(self) -> set[str]:
        return set(_derived_buffers(self))

    def decoding_state(self) -> dict[str, Tensor]:
        derived = _derived_buffers(self)
        weights = {k: v for k, v in self.state_dict().items() if k not in derived}
        return {**weights, **self._prepared().tables()}

    def prepare_coding(self) -> None:
        for module in self.model.modules():
            if isinstance(module, MaskedConv2d | CheckerboardMaskedConv2d):
                # Their first forward pass does this; here it must precede the fingerprint.
                module.weight.mul_(module.mask)
        (conditional, *_) = (m for m in self.model.modules() if isinstance(m, GaussianConditional))
        scales = torch.tensor(scale_table())
        self._coder = LatentCoder(
            self.hyperprior.entropy_bottleneck,
            conditional,
            self.hyper_synthesis(),
            channels=self.latent_channels,
            scales=scales,
            borders=scales[:-1].double(),  # the next larger scale, as CompressAI's `build_indexes`
        )

        # Convolutions on CPUs are faster in channels-last format. The model itself keeps its
        # format, because training `cheng2020_*` in channels-last crashes in torch 2.15.
        self._on_cpus = {
            name: copy.deepcopy(getattr(self.model, name))
            .cpu()
            .requires_grad_(False)
            .to(memory_format=torch.channels_last)
            for name in ("g_a", "g_s")
        }

    def hyper_synthesis(self) -> Network:
        """h_s for coding: z_hat (1, C', h, w) -> parameters of y (1, P, 4h, 4w)."""
        return ScalesThenMeans(self.hyperprior.h_s)

    def hyper_analysis(self, y: Tensor) -> Tensor:
        """y (1, C, 4h, 4w) -> z (1, C', h, w)."""
        z: Tensor = self.hyperprior.h_a(y)
        return z

    def context_model(self) -> ContextModel:
        """The context model, which predicts y from h_s(z_hat)."""
        return scales_then_means

    def encode(self, x: Tensor, point: Point) -> list[list[bytes]]:
        return [self._encode_image(image, point) for image in x.split(1)]

    def decode(
        self,
        payloads: list[list[bytes]],
        height: int,
        width: int,
        seeds: list[int],
        point: Point,
    ) -> Decoded:
        latents = [self._decode_latents(payload, height, width) for payload in payloads]
        images = [self._synthesise(y_hat, height, width) for y_hat in latents]
        return Decoded(torch.cat(images), torch.cat(latents))

    def _encode_image(self, x: Tensor, point: Point) -> list[bytes]:
        y = self._analyse(x)
        return self._prepared().encode(y, self.hyper_analysis(y), self.context_model())

    def _decode_latents(self, payload: list[bytes], height: int, width: int) -> Tensor:
        """Sections of an image of this size -> y_hat, on the codec's device."""
        y_hat = self._prepared().decode(payload, *size_of_z(height, width), self.context_model())
        return y_hat.to(self.device)

    def _analyse(self, x: Tensor) -> Tensor:
        """An image (1, 3, H, W) in [0, 1] -> y (1, C, h, w) of the padded image."""
        g_a = self._transform("g_a")
        return by_tiles(g_a, pad_around(x, STRIDE), window=self.window, down=LATENT_STRIDE)

    def _synthesise(self, y_hat: Tensor, height: int, width: int) -> Tensor:
        """y_hat (1, C, h, w) -> an image (1, 3, height, width) in [0, 1]."""
        window = self.window // LATENT_STRIDE
        x_hat = by_tiles(self._transform("g_s"), y_hat, window=window, up=LATENT_STRIDE)
        return crop_center(x_hat.clamp_(0, 1), height, width)

    def _transform(self, name: str) -> Network:
        """`g_a` or `g_s`, in the memory format that is fastest on the codec's device."""
        transform: Network = getattr(self.model, name)
        return self._on_cpus.get(name, transform) if self.device.type == "cpu" else transform

    def _prepared(self) -> LatentCoder:
        if self._coder is None:
            self.prepare_coding()
        assert self._coder is not None
        return self._coder

    @torch.no_grad()
    def simulate(self, x: Tensor, point: Point) -> Decoded:
        if self.training or hasattr(self.model, "context_prediction"):
            # The model's forward pass differs from decoding: noise replaces rounding, or the
            # context is not the decoded one.
            return super().simulate(x, point)
        self.load_point(point)
        pad, unpad = compute_padding(*x.shape[-2:], min_div=STRIDE)
        with torch.autocast(x.device.type, enabled=False), self._synthesis_inputs() as latents:
            x_hat = self._model_forward(F.pad(x, pad, mode="replicate"), point)
        return Decoded(F.pad(x_hat, unpad).clamp(0, 1), latents[-1])

    @contextmanager
    def _synthesis_inputs(self) -> Iterator[list[Tensor]]:
        """A list that collects every y_hat passed to g_s."""
        latents: list[Tensor] = []
        hook = self.model.g_s.register_forward_pre_hook(lambda _, inputs: latents.append(inputs[0]))
        try:
            yield latents
        finally:
            hook.remove()

    def reconstruct(self, x: Tensor, point: Point) -> Tensor:
        """Run the model's own forward pass; see `Codec.reconstruct`.

        For models with a context model, the result differs slightly from decoding: the forward pass
        predicts from latents that are not rounded yet.
        """
        self.load_point(point)
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
            x_hat = self._model_forward(F.pad(x, pad, mode="replicate"), point)
        finally:
            for hook in hooks:
                hook.remove()
        return F.pad(x_hat, unpad)

    def _model_forward(self, x: Tensor, point: Point) -> Tensor:
        x_hat: Tensor = self.model(x)["x_hat"]
        return x_hat

    @property
    def latent_channels(self) -> int:
        """The number of channels of y."""
        return next(p.shape[0] for p in reversed([*self.model.g_a.parameters()]) if p.ndim == 1)

    def rate_distortion(self, x: Tensor) -> dict[str, Tensor]:
        """`loss`, `bpp_loss` and `mse_loss` (or `ms_ssim_loss`) of images (B, 3, H, W)."""
        raise NotImplementedError

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        with self._synthesis_inputs() as latents:
            out = self.rate_distortion(batch["image"])
        # Entropy tables span a limited range. Latents that grow beyond it cost escape codes.
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


def size_of_z(height: int, width: int) -> tuple[int, int]:
    """Height and width of z for an image of this height and width."""
    return -(-height // STRIDE), -(-width // STRIDE)


def _to_float32(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.float()


def _derived_buffers(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Buffers of the entropy models: tables and constants, which are not learned."""
    return {
        f"{prefix}{name}.{key}": buffer
        for name, child in module.named_modules()
        if isinstance(child, EntropyModel)
        for key, buffer in child.named_buffers()
    }


def _keep_derived(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Replace derived buffers in a state dict that is being loaded by the module's own.

    The sizes of the tables depend on the weights, so those of a checkpoint do not fit a new module.
    The tables are rebuilt from the weights before the first image is coded.
    """
    state.update(_derived_buffers(module, prefix))
