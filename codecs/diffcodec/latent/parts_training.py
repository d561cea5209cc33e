"""Training of a latent diffusion model: its autoencoder, then its U-Net and text encoder.

Neither is a codec. The validation metric of the autoencoder is the PSNR of its reconstructions, an
upper bound for codecs in its latent space (PerCo, Fig. 9; Table 1). The validation metric of U-Net
and text encoder is their loss at fixed noise and timesteps.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from diffcodec.coding.bitstream import derive_seed
from diffcodec.diffusion.sampler import seeded_noise
from diffcodec.latent.autoencoder import LatentSpace
from diffcodec.latent.backbone import Backbone, frozen
from diffcodec.latent.process import LatentProcess
from diffcodec.networks.padding import pad_to_multiple
from diffcodec.training.decoder_loss import DecoderLoss, parameter_groups
from diffcodec.training.optimization import clip_network, warmed_up_adamw
from diffcodec.weights.configuration import arguments_of, is_configured

Captioner = Callable[..., list[str | None]]
"""captioner(x, batch) -> one caption per image, see `TextToImageTraining`."""


class AutoencoderTraining(LightningModule):
    """Trains an autoencoder with a KL penalty on its latents (Rombach et al. 2022).

    Latents are normalized to zero mean and unit variance per channel, by moving averages of their
    statistics during training.

    Args:
        latents: autoencoder to train.
        loss: loss of the reconstructions, see `DecoderLoss`; null selects the squared error.
        discriminator_lr: learning rate of the discriminator in `loss`.
        lr, weight_decay, warmup_steps: learning rate, weight decay and warm-up steps of AdamW; the
            learning rate falls linearly to zero.
        kl_weight: weight of the KL divergence of the posterior from N(0, I), per latent value.
        momentum: momentum of the latents' statistics.
        decoder_only: freeze the encoder and the normalization, so that models trained in the latent
            space stay valid.

    Attributes:
        product: the autoencoder that is exported after training.

    Raises:
        ValueError: decoder_only without trained weights.
    """

    def __init__(
        self,
        latents: LatentSpace,
        *,
        loss: DecoderLoss | None = None,
        discriminator_lr: float = 2e-4,
        lr: float = 2e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 100,
        kl_weight: float = 1e-5,
        momentum: float = 0.01,
        decoder_only: bool = False,
    ) -> None:
        super().__init__()
        if decoder_only and not (is_configured(latents) and arguments_of(latents)["weights"]):
            raise ValueError("decoder_only=true needs trained weights: pass part.latents.weights")
        self.latents = latents
        # 0.25 on [-1, 1] equals the squared error of images in [0, 1].
        self.loss = loss or DecoderLoss(mse_weight=0.25, perceptual_weight=0.0)
        self.discriminator_lr = discriminator_lr
        self.lr, self.weight_decay, self.warmup_steps = lr, weight_decay, warmup_steps
        self.kl_weight = kl_weight
        self.momentum = momentum
        self.decoder_only = decoder_only
        self._mse, self._psnr = MeanMetric(), MeanMetric()

    @property
    def product(self) -> LatentSpace:
        return self.latents

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        x = pad_to_multiple(batch["image"], self.latents.stride)
        if self.decoder_only:
            with torch.no_grad():
                latent = self.latents.encode(x)
            return self._decoder_loss(latent, x)
        posterior = self.latents.posterior(x)
        z = posterior.sample()
        self._track(z.detach())
        mean, variance = posterior.mean.float(), posterior.var.float()
        divergence = (mean**2 + variance - 1 - variance.log()).mean() / 2
        self.log("train/kl", divergence)
        latent = (z - self.latents.shift) * self.latents.scale
        loss: Tensor = self._decoder_loss(latent, x) + self.kl_weight * divergence
        return loss

    def _decoder_loss(self, latent: Tensor, x: Tensor) -> Tensor:
        x_hat = self.latents.decode(latent)
        terms = self.loss(x_hat * 2 - 1, x * 2 - 1, step=self.global_step)
        self.log("train/psnr", -10 * (terms["mse"].detach() / 4).log10(), prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in terms.items()})
        return terms["loss"]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        if not len(batch["index"]):  # none of its images could be read
            return
        x = batch["image"]
        with torch.autocast(x.device.type, enabled=False):
            x_hat = self.latents.round_trip(x)
        mse = (x_hat - x).square().mean((1, 2, 3))
        self._mse.update(mse)
        self._psnr.update(-10 * mse.log10())
        self.log("val/mse", self._mse)
        self.log("val/psnr", self._psnr, prog_bar=True)

    @torch.no_grad()
    def _track(self, z: Tensor) -> None:
        z, over = z.float(), (0, 2, 3)
        moments = torch.stack([z.mean(over, keepdim=True), z.square().mean(over, keepdim=True)])
        # Average over the images of all processes.
        mean, power = self.trainer.strategy.reduce(moments, reduce_op="mean")
        std = (power - mean**2).clamp(min=0).sqrt()
        first = self.global_step == 0
        self.latents.shift.lerp_(mean, 1.0 if first else self.momentum)
        # The average of 1 / std is slightly biased towards small deviations.
        self.latents.scale.lerp_(1 / std.clamp(min=1e-6), 1.0 if first else self.momentum)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: Any = None, *_: Any, **__: Any
    ) -> None:
        clip_network(optimizer, gradient_clip_val)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        only = ("decoder.", "post_quant_conv.") if self.decoder_only else ("",)
        return warmed_up_adamw(
            parameter_groups(
                self.latents.vae, self.loss, discriminator_lr=self.discriminator_lr, only=only
            ),
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
            num_steps=self.trainer.estimated_stepping_batches,
        )


class TextToImageTraining(LightningModule):
    """Trains the U-Net and the text encoder of a backbone to generate images from captions.

    Args:
        backbone: backbone with a trained autoencoder, which stays frozen.
        captioner: function of images (B, 3, H, W) in [0, 1] and their batch that returns one
            caption per image; None is an empty caption.
        caption_drop: probability in training that a caption is replaced by the empty one, for
            classifier-free guidance.
        grid_steps: number of timesteps to train.
        validation_levels: number of noise levels for validation, at evenly spaced timesteps.
        lr, weight_decay, warmup_steps: learning rate, weight decay and warm-up steps of AdamW; the
            learning rate falls linearly to zero.

    Attributes:
        product: the backbone that is exported after training.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        captioner: Captioner,
        caption_drop: float = 0.1,
        grid_steps: int = 1000,
        validation_levels: int = 8,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 500,
    ) -> None:
        super().__init__()
        self.process = LatentProcess(
            backbone.alphas_cumprod, prediction=backbone.prediction, grid_steps=grid_steps
        )
        backbone.check_trainable()
        backbone.widen(0)
        frozen(backbone.latents)
        self.backbone = backbone
        self.captioner = captioner
        self.caption_drop = caption_drop
        self.lr, self.weight_decay, self.warmup_steps = lr, weight_decay, warmup_steps
        # Skip the lowest level: v is the noise there, which is barely visible in the input.
        self._levels = self.process.sampling_sigmas(validation_levels + 1)[:-2]
        self._v_loss = MeanMetric()

    def train(self, mode: bool = True) -> "TextToImageTraining":
        super().train(mode)
        self.backbone.latents.eval()
        return self

    @property
    def product(self) -> Backbone:
        return self.backbone

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        captions = self.captioner(batch["image"], batch)
        dropped = torch.rand(len(captions)) < self.caption_drop
        captions = [None if d else c for c, d in zip(captions, dropped.tolist(), strict=True)]
        x0 = self._latents(batch["image"])
        sigma, noise = self.process.draw_sigmas(len(x0)), torch.randn_like(x0)
        loss = self._loss(x0, captions, noise, sigma).mean()
        self.log("train/v_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        if not len(batch["index"]):  # none of its images could be read
            return
        captions = self.captioner(batch["image"], batch)
        for index, x, caption in zip(
            batch["index"].tolist(), batch["image"].split(1), captions, strict=True
        ):
            count = len(self._levels)
            x0 = self._latents(x).expand(count, -1, -1, -1)
            noise = seeded_noise(derive_seed([f"validation {index}".encode()]))(x0)
            with torch.autocast(x.device.type, enabled=False):
                loss = self._loss(x0, [caption] * count, noise, self._levels)
            self._v_loss.update(loss.mean())
        self.log("val/v_loss", self._v_loss, prog_bar=True)

    @torch.no_grad()
    def _latents(self, x: Tensor) -> Tensor:
        latents = self.backbone.latents
        # Autocast may return half precision, which cannot represent latents under strong noise.
        return latents.encode(pad_to_multiple(x, latents.stride)).float()

    def _loss(
        self, x0: Tensor, captions: Sequence[str | None], noise: Tensor, sigma: Tensor
    ) -> Tensor:
        text = self.backbone.embed_text([caption or "" for caption in captions])
        loss, _ = self.process.v_loss(self.backbone.network, x0, noise, sigma, text=text)
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return warmed_up_adamw(
            [p for p in self.parameters() if p.requires_grad],
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
            num_steps=self.trainer.estimated_stepping_batches,
        )
