"""CDC as a codec: a hyperprior codes latents, and context maps from them condition a U-Net.

x -> g_a -> y -> bytes -> y_hat -> g_s -> contexts
                          gamma * noise, contexts -> DDIM with the U-Net -> x_hat
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from diffcodec.cdc.coder import build_coder, means_then_scales, share_outside
from diffcodec.cdc.compressor import Compressor
from diffcodec.cdc.layers import ContextTerms
from diffcodec.cdc.process import build_process
from diffcodec.cdc.rate_warmup import warmed_up
from diffcodec.cdc.released import convert, released_state
from diffcodec.cdc.unet import UNet
from diffcodec.codec import Codec, Decoded
from diffcodec.coding.bitstream import derive_seed, seed_of_sample
from diffcodec.coding.latent_coder import LatentCoder
from diffcodec.diffusion.denoiser import like
from diffcodec.diffusion.sampler import find_sampler, seeded_noise
from diffcodec.diffusion.tiling import TiledDenoiser, check_window
from diffcodec.networks.padding import pad_to_multiple
from diffcodec.networks.precision import check_precision, decoding_in
from diffcodec.networks.tiles import by_tiles
from diffcodec.points import Point
from diffcodec.training.few_steps import Resampled
from diffcodec.training.optimization import clip_network, hyperprior_optimizer
from diffcodec.training.perceptual import PerceptualLoss, check_choice
from diffcodec.weights.loading import load_checkpoint, state_dict_of
from diffcodec.weights.model_folder import load_saved

STRIDE = 64  # pixels per value of z, along a side
MULTIPLIERS = (1, 2, 3, 4)
HYPER_MULTIPLIERS = (4, 4, 4)
UNET_MULTIPLIERS = (1, 2, 3, 4, 5, 6)
LATENT_STRIDE = 16  # pixels per value of y, along a side
WINDOW = 1024


class CDC(Codec):
    """Conditional Diffusion Compression (Yang & Mandt, NeurIPS 2023), x0- or eps-prediction.

    The same bytes decode at every operating point: the decoder chooses the number of steps and the
    strength of the starting noise (gamma 0: faithful; 0.8: realistic).

    Where the paper's text and the authors' released code differ, this class follows the code:

    - The text simulates rounding by uniform noise. In the code, the decoder's latents have
      straight-through rounding, and only the rate uses uniform noise.
    - `diffcodec.cdc.process` lists the differences in the diffusion process.
    - The code clips the gradient norm to 1 for x0-prediction and does not clip for eps-prediction
      (`trainer.gradient_clip_val`). The text mentions neither.

    Args:
        prediction: `x0` or `eps`; `diffcodec.cdc.process` lists all differences.
        width: number of channels of the first stages; 64 in the paper.
        context_channels: number of channels of the finest context map; null selects 3 for eps and
            `width` for x0.
        num_timesteps: number of timesteps of the diffusion process; null selects that of the
            released models, 8193 (x0) or 20000 (eps).
        steps: number of decoding steps, one or several; null selects 17 (x0) or 200 (eps).
        gamma: standard deviation of the starting noise, one or several. The operating points are
            all combinations of `steps` and `gamma`.
        num_samples: number of decodings of each stream with different noise, as points `sample=0`,
            … (Fig. 14).
        progress: fraction of the steps after which decoding stops and returns x_n, one or several,
            as in `[0, 0.3, 0.6, 0.9, 1]` (Fig. 15).
        lmbda: weight of the rate in bits per pixel.
        warmup_lmbda, warmup_steps: weight of the rate at the start of training, and the number of
            steps it is used for.
        ramp_steps: number of steps over which the weight then rises to `lmbda`.
        initial_gain: factor on y before training. Rounding erases latents smaller than one
            quantization step.
        context_weight: weight of the squared error between the image and the first three channels
            of its finest context map; 0 in the paper. A denoiser takes long to learn that contexts
            help, and until then the rate erases them. This loss trains the encoder from the start.
        context_steps: number of steps at the start of training in which only the context loss and
            the rate are trained.
        rho: weight of the perceptual distance in the distortion, in [0, 1).
        denoising_weight: weight of the distortion at random timesteps in `FewStepTraining`, so that
            the network also decodes in many steps; 0 omits it.
        perceptual, vgg_weights: the perceptual distance, LPIPS in the paper; see
            `diffcodec.training.perceptual`.
        lr, aux_lr: learning rates of the network and of the factorized prior's quantiles.
        scheduler: optimizer -> learning-rate scheduler, stepped every step; null selects a cosine
            to zero over the run.
        sampler: sampler of the decoder: `ddim`, as in the paper, `dpmpp_2m` or `euler_sde`.
        decode_precision: precision of the U-Net in decoding, `32` or `bf16`.
        compile: run `torch.compile` on the U-Net, which takes minutes once and speeds it up.
        window: side of a tile in pixels, a multiple of 64. Larger images are encoded in tiles with
            exact margins, so their streams equal those of the whole image. The decoder has global
            attention, so it blends the estimates of overlapping tiles at every step.
        weights: null to train from scratch, or a source of `diffcodec.weights`: this project's or
            the authors' checkpoints.

    Raises:
        ValueError: an argument is not among its choices, or the weights do not fit.
    """

    num_sections = 2

    def __init__(
        self,
        prediction: str = "x0",
        *,
        width: int = 64,
        context_channels: int | None = None,
        num_timesteps: int | None = None,
        steps: int | Sequence[int] | None = None,
        gamma: float | Sequence[float] = 0.0,
        num_samples: int = 1,
        progress: float | Sequence[float] = 1.0,
        lmbda: float = 0.0032,
        warmup_lmbda: float = 1e-5,
        warmup_steps: int = 0,
        ramp_steps: int = 0,
        initial_gain: float = 1.0,
        context_weight: float = 0.0,
        context_steps: int = 0,
        rho: float = 0.0,
        denoising_weight: float = 0.0,
        perceptual: str | None = None,
        vgg_weights: str | None = None,
        lr: float = 5e-5,
        aux_lr: float = 1e-3,
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        sampler: str = "ddim",
        decode_precision: str | int = "32",
        compile: bool = False,
        window: int = WINDOW,
        weights: str | None = None,
    ) -> None:
        check_window(window, STRIDE)
        process = build_process(prediction, num_timesteps)
        find_sampler(sampler)  # raises on an unknown name
        decode_precision = check_precision(decode_precision)
        if not 0 <= rho < 1:
            raise ValueError(f"rho must be in [0, 1), got {rho}")
        if denoising_weight < 0:
            raise ValueError(f"denoising_weight must be at least 0, got {denoising_weight:g}")
        if context_steps and not context_weight:
            raise ValueError(f"context_steps={context_steps} needs a context_weight above 0")
        if width < 1:
            raise ValueError(f"width must be at least 1, got {width}")
        if context_channels is None:
            context_channels = width if prediction == "x0" else 3
        if context_weight and context_channels < 3:
            raise ValueError(
                f"context_weight={context_weight:g} needs at least 3 context channels, "
                f"got context_channels={context_channels}"
            )
        points = process.decoding_points(
            steps, gamma, lmbda, num_samples=num_samples, progress=progress
        )
        super().__init__(points)
        self.process = process
        self.compressor = Compressor(width, MULTIPLIERS, HYPER_MULTIPLIERS, context_channels)
        contexts = [context_channels, *(width * m for m in MULTIPLIERS[:-1])]
        self.compressor.widen(initial_gain)
        self.unet = UNet(width, UNET_MULTIPLIERS, contexts)
        self.lmbda = lmbda
        self.warmup_lmbda = warmup_lmbda
        self.warmup_steps = warmup_steps
        self.ramp_steps = ramp_steps
        self.context_weight = context_weight
        self.context_steps = context_steps
        self.rho = rho
        self.denoising_weight = denoising_weight
        check_choice(perceptual)
        self.perceptual, self.vgg_weights = perceptual, vgg_weights
        self.lr = lr
        self.aux_lr = aux_lr
        self.scheduler = scheduler
        self.sampler = sampler
        self.decode_precision = decode_precision
        if compile:
            self.unet.compile()
        self.window = window
        self._coder: LatentCoder | None = None
        self._perceptual: PerceptualLoss | None = None
        if weights is not None:
            self.load_weights(weights)

    def load_weights(self, source: str) -> None:
        """Load a checkpoint of this codec, or one that the authors released.

        Args:
            source: the checkpoint, as in `diffcodec.weights`.

        Raises:
            ValueError: the checkpoint cannot be loaded, or does not fit this configuration.
        """
        checkpoint = load_checkpoint(source)
        released = released_state(checkpoint)
        if released is None:
            load_saved(self, state_dict_of(checkpoint), source=source)
            return
        schedule = released.get("train_alphas_cumprod", self.process.alphas_cumprod).cpu()
        if not self.process.has_schedule(schedule):
            raise ValueError(f"weights from {source} were trained with another noise schedule")
        load_saved(self, convert(released), source=source)

    def derived_state(self) -> set[str]:
        # The buffers of the entropy models. In half precision their lower bound on likelihoods
        # would be 0, and the gradient of its logarithm infinite.
        return {k for k, _ in self.named_buffers() if k.startswith("compressor.")}

    def arguments(self) -> dict[str, Any]:
        # A scheduler belongs to one run, and may be user code.
        return {**super().arguments(), "scheduler": None}

    def format_config(self) -> dict[str, Any]:
        return {"prediction": self.process.prediction, "N": self.process.num_timesteps}

    def decoding_state(self) -> dict[str, Tensor]:
        encoder = ("compressor.g_a.", "compressor.h_a.")
        state = {k: v for k, v in self.state_dict().items() if not k.startswith(encoder)}
        return {**state, **self._prepared().tables()}

    def prepare_coding(self) -> None:
        self._coder = build_coder(self.compressor)

    def encode(self, x: Tensor, point: Point) -> list[list[bytes]]:
        coder = self._prepared()
        payloads = []
        for image in x.split(1):
            y = self._analyse(pad_to_multiple(image, STRIDE))
            payloads.append(coder.encode(y, self.compressor.h_a(y), means_then_scales))
        return payloads

    def _analyse(self, x: Tensor) -> Tensor:
        """A padded image (1, 3, H, W) in [0, 1] -> y (1, C, H / 16, W / 16)."""

        def analyse(part: Tensor) -> Tensor:
            y: Tensor = self.compressor.g_a(part * 2 - 1)
            return y

        return by_tiles(analyse, x, window=self.window, down=LATENT_STRIDE)

    def decode(
        self,
        payloads: list[list[bytes]],
        height: int,
        width: int,
        seeds: list[int],
        point: Point,
    ) -> Decoded:
        # One image at a time: the rounding of a convolution depends on its batch size.
        images = []
        size = -(-height // STRIDE), -(-width // STRIDE)  # of z
        for payload, seed in zip(payloads, seeds, strict=True):
            y_hat = self._prepared().decode(payload, *size, means_then_scales)
            x0 = self.sample(y_hat.to(self.device), seed, point)
            images.append(x0[..., :height, :width].add_(1).div_(2))
        return Decoded(torch.cat(images))

    def sample(self, y_hat: Tensor, seed: int, point: Point) -> Tensor:
        """Quantized latents of one image (1, C, H / 16, W / 16) -> x0_hat (1, 3, H, W).

        Algorithm 1, right, with the point's number of steps and gamma. If decoding stops before
        the last step, the result is x_n at the scale of the variance-preserving process.
        """
        num_steps, gamma = point.setting("steps", int), point.setting("gamma", float)
        seed = seed_of_sample(seed, point.setting("sample", int, 0))
        size = (1, 3, y_hat.shape[-2] * 16, y_hat.shape[-1] * 16)
        x = torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(y_hat)
        added = seeded_noise(derive_seed([self.sampler.encode(), str(seed).encode()]))
        with decoding_in(self.decode_precision, y_hat.device):
            known = self._terms(y_hat) if max(size) <= self.window else None

            def network(x: Tensor, time: Tensor, y_hat: Tensor) -> Tensor:
                # For a large image, all terms take ten times the memory of the image.
                terms = self._terms(y_hat) if known is None else known
                out: Tensor = self.unet(x, time, terms)
                return out.float()

            denoiser, sigmas = self.process.sampling(network, num_steps)
            tiled = TiledDenoiser(denoiser, self.window, multiple=STRIDE, spatial=["y_hat"])
            # gamma is the standard deviation of x_N at the scale of the variance-preserving process
            x.mul_(like(x, gamma * (1 + sigmas[0] ** 2).sqrt()))
            done = round(point.setting("progress", float, 1.0) * num_steps)
            sample = find_sampler(self.sampler)
            x = sample(tiled, x, sigmas[: done + 1], noise=added, overwrite=True, y_hat=y_hat)
            return x.div_(like(x, (1 + sigmas[done] ** 2).sqrt()))

    def _terms(self, y_hat: Tensor) -> list[ContextTerms]:
        """Quantized latents, shaped as in `sample` -> the terms that they add inside the U-Net."""
        with torch.autocast(y_hat.device.type, enabled=False):  # float32, like the encoder
            contexts = self.compressor.contexts(y_hat)
        return self.unet.context_terms(contexts)

    def resample(self, batch: dict[str, Any], point: Point) -> Resampled:
        """Encode and decode the images of a batch at a point; see `FewStepTraining`."""
        x = batch["image"]
        x0 = pad_to_multiple(x * 2 - 1, STRIDE)
        latents = self.compressor(x0)
        terms = self.unet.context_terms(self.compressor.contexts(latents.y_hat))

        def network(x: Tensor, time: Tensor) -> Tensor:
            out: Tensor = self.unet(x, time, terms)
            return out.float()

        denoiser, sigmas = self.process.sampling(network, point.setting("steps", int))
        scale = point.setting("gamma", float) * (1 + sigmas[0] ** 2).sqrt()
        start = torch.randn_like(x0) * like(x0, scale)
        sample = find_sampler(self.sampler)
        x0_hat = sample(denoiser, start, sigmas, noise=torch.randn_like)
        bpp = latents.bits().mean() / (x0.shape[-2] * x0.shape[-1])
        loss = self.lmbda * bpp + self.compressor.entropy_bottleneck.loss()
        logged = {"bpp": bpp, "y_escaped": share_outside(latents)}
        if self.denoising_weight:
            losses = self._denoising_losses(x0, terms)
            weighted = [self._distortion_weights[name] * term for name, term in losses.items()]
            loss = loss + self.denoising_weight * torch.stack(weighted).sum()
            logged |= losses
        height, width = x.shape[-2:]
        return Resampled((x0_hat[..., :height, :width] + 1) / 2, loss=loss, logged=logged)

    def rate_distortion(self, x: Tensor, *, denoise: bool = True) -> dict[str, Tensor]:
        """The terms of the loss (Eqs. 6, 8 and 9) at random timesteps.

        Args:
            x: images (B, 3, H, W) in [0, 1].
            denoise: also run the U-Net.

        Returns:
            Scalars: `bpp_loss`, `diffusion_loss` and, if their weights are positive, `context_loss`
            and `lpips_loss`. In addition `y_max`, the largest absolute value of y_hat, and
            `y_escaped`, the fraction of its symbols outside the entropy tables.
        """
        x0 = pad_to_multiple(x * 2 - 1, STRIDE)
        latents = self.compressor(x0)
        contexts = self.compressor.contexts(latents.y_hat)
        out = {
            "bpp_loss": latents.bits().mean() / (x0.shape[-2] * x0.shape[-1]),
            # Entropy tables span a limited range, which growing latents leave.
            "y_max": latents.y_hat.detach().abs().max(),
            "y_escaped": share_outside(latents),
        }
        if self.context_weight:
            out["context_loss"] = (contexts[0][:, :3].float() - x0).square().mean()
        if not denoise:
            return out
        return {**out, **self._denoising_losses(x0, self.unet.context_terms(contexts))}

    @property
    def _distortion_weights(self) -> dict[str, float]:
        return {"diffusion_loss": 1 - self.rho, "lpips_loss": self.rho}

    def _denoising_losses(self, x0: Tensor, terms: list[ContextTerms]) -> dict[str, Tensor]:
        """The distortions of padded images in [-1, 1] at random timesteps.

        Returns:
            Scalars: `diffusion_loss`, and `lpips_loss` if `rho` is positive.
        """
        t = torch.randint(self.process.num_timesteps, (len(x0),))
        eps = torch.randn_like(x0)
        loss, x0_hat = self.process.loss(self.unet, x0, eps, t, terms=terms)
        out = {"diffusion_loss": loss.mean()}
        if self._perceptual is not None:
            if self.process.prediction == "eps":  # inaccurate at the noisiest timesteps
                x0_hat = x0_hat.clamp(-1, 1)
            out["lpips_loss"] = self._perceptual(x0_hat, x0)
        return out

    def setup(self, stage: str) -> None:
        if stage == "fit" and self.rho > 0:
            self._perceptual = PerceptualLoss(
                self.perceptual, wanted_by="rho > 0", vgg_weights=self.vgg_weights
            )

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        out = self.rate_distortion(batch["image"], denoise=self.global_step >= self.context_steps)
        weights = {
            "bpp_loss": warmed_up(
                self.lmbda,
                self.global_step,
                warmup_lmbda=self.warmup_lmbda,
                warmup_steps=self.warmup_steps,
                ramp_steps=self.ramp_steps,
            ),
            "context_loss": self.context_weight,
            **self._distortion_weights,
        }
        terms = [weights[name] * term for name, term in out.items() if name in weights]
        loss = torch.stack(terms).sum()
        aux_loss = self.compressor.entropy_bottleneck.loss()
        for name, value in {"loss": loss, **out}.items():
            self.log(
                f"train/{name}", value, prog_bar=name in ("loss", "bpp_loss", "diffusion_loss")
            )
        self.log_dict({"train/aux_loss": aux_loss, "train/lmbda": weights["bpp_loss"]})
        return loss + aux_loss

    def configure_optimizers(self) -> Any:
        return hyperprior_optimizer(
            self,
            lr=self.lr,
            aux_lr=self.aux_lr,
            num_steps=self.trainer.estimated_stepping_batches,
            schedule=self.scheduler,
        )

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: Any = None, *_: Any, **__: Any
    ) -> None:
        clip_network(optimizer, gradient_clip_val)

    def _prepared(self) -> LatentCoder:
        if self._coder is None:
            self.prepare_coding()
        assert self._coder is not None
        return self._coder
