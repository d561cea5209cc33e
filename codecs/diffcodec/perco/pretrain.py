"""The small backbone's own training: its autoencoder, then its U-Net and text encoder.

Both are codecs, so that they are measured like any other: the autoencoder's stream is its latent in
single precision, whose PSNR is the ceiling of what PerCo can reach (Fig. 9; Table 1), and the
latent diffusion model's is the caption.
"""

from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from diffcodec.bitstream import BitstreamError
from diffcodec.codec import Codec
from diffcodec.perco.backbone import Backbone
from diffcodec.perco.captioned import CaptionedCodec
from diffcodec.perco.captioners import Captioner
from diffcodec.perco.latents import LatentSpace, pad
from diffcodec.perco.model import LatentDiffusion
from diffcodec.perco.training import warmed_up_adamw
from diffcodec.weights import load_checkpoint, load_strict, state_dict_of


class Autoencoder(Codec):
    """Trains a latent space: squared error and a divergence that keeps latents compact.

    Latents are brought to zero mean and unit variance per channel by statistics that are averaged
    while it trains.

    Args:
        latents: what is trained.
        lr, weight_decay, warmup_steps: of AdamW; the learning rate falls linearly to zero.
        kl_weight: of the divergence of the posterior from N(0, I), per latent value.
        momentum: of the latents' statistics.
        decoder_only: go on from `weights` with the latent space as it is, so that what was trained
            on it still fits.
        weights: null, or a source of `diffcodec.weights`.
    """

    def __init__(
        self,
        latents: LatentSpace,
        *,
        lr: float = 2e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 100,
        kl_weight: float = 1e-5,
        momentum: float = 0.01,
        decoder_only: bool = False,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if decoder_only and weights is None:
            raise ValueError("decoder_only=true goes on from weights: give them")
        self.latents = latents
        self.lr, self.weight_decay, self.warmup_steps = lr, weight_decay, warmup_steps
        self.kl_weight = kl_weight
        self.momentum = momentum
        self.decoder_only = decoder_only
        if weights is not None:
            state = state_dict_of(load_checkpoint(weights, package="diffcodec.perco"))
            load_strict(self, state, source=weights)

    def encode(self, x: Tensor) -> list[list[bytes]]:
        # One at a time: what a convolution rounds depends on the batch it is part of.
        latents = [self.latents.encode(pad(image, self.latents.stride)) for image in x.split(1)]
        return [[z.cpu().numpy().astype("<f4").tobytes()] for z in latents]

    def decode(
        self, payloads: list[list[bytes]], height: int, width: int, seeds: list[int]
    ) -> Tensor:
        stride = self.latents.stride
        shape = (self.latents.channels, -(-height // stride), -(-width // stride))
        images = []
        for (payload,) in payloads:
            if len(payload) != 4 * shape[0] * shape[1] * shape[2]:
                raise BitstreamError(f"{len(payload)} bytes are no latent of {shape} values")
            values = np.frombuffer(payload, dtype="<f4").astype(np.float32)
            z = torch.from_numpy(values).reshape(1, *shape).to(self.device)
            # Finite, so that no stream makes a picture of what is no number.
            images.append(self.latents.decode(z)[..., :height, :width].nan_to_num())
        return torch.cat(images)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        x = pad(batch["image"], self.latents.stride)
        if self.decoder_only:
            with torch.no_grad():
                latent = self.latents.encode(x)
            return self._squared_error(latent, x)
        posterior = self.latents.posterior(x)
        z = posterior.sample()
        self._track(z.detach())
        mean, variance = posterior.mean.float(), posterior.var.float()
        divergence = (mean**2 + variance - 1 - variance.log()).mean() / 2
        self.log("train/kl", divergence)
        latent = (z - self.latents.shift) * self.latents.scale
        loss: Tensor = self._squared_error(latent, x) + self.kl_weight * divergence
        return loss

    def _squared_error(self, latent: Tensor, x: Tensor) -> Tensor:
        mse = (self.latents.decode(latent) - x).square().mean()
        self.log("train/psnr", -10 * mse.detach().log10(), prog_bar=True)
        self.log("train/mse", mse)
        return mse

    @torch.no_grad()
    def _track(self, z: Tensor) -> None:
        mean = z.float().mean((0, 2, 3), keepdim=True)
        std = z.float().std((0, 2, 3), keepdim=True)
        first = self.global_step == 0
        self.latents.shift.lerp_(mean, 1.0 if first else self.momentum)
        # 1 / std is what is kept: its average leans to small deviations, but little.
        self.latents.scale.lerp_(1 / std.clamp(min=1e-6), 1.0 if first else self.momentum)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return warmed_up_adamw(
            [
                parameter
                for name, parameter in self.latents.vae.named_parameters()
                if not self.decoder_only or name.startswith(("decoder.", "post_quant_conv."))
            ],
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
            num_steps=self.trainer.estimated_stepping_batches,
        )


class TextToImage(CaptionedCodec):
    """Trains U-Net and text encoder of a backbone to make images of captions.

    Args:
        backbone: with a trained autoencoder, which stays as it is.
        captioner: images -> captions.
        text_coder: `zlib` or `dictionary`.
        caption_drop: share of the images in training without caption.
        steps, guidance: of the decoder.
        grid_steps: timesteps that are trained and sampled.
        lr, weight_decay, warmup_steps: of AdamW; the learning rate falls linearly to zero.
        weights: null, or a source of `diffcodec.weights`.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        captioner: Captioner,
        text_coder: str = "dictionary",
        caption_drop: float = 0.1,
        steps: int = 20,
        guidance: float = 3.0,
        grid_steps: int = 1000,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        warmup_steps: int = 500,
        weights: str | None = None,
    ) -> None:
        super().__init__(captioner=captioner, text_coder=text_coder)
        model = LatentDiffusion(backbone, [], hyper_encoder={}, grid_steps=grid_steps)
        # The null text is that of "", which PerCo starts from.
        model.null_text.requires_grad_(False)
        backbone.text_encoder.requires_grad_(True)
        self.model = model
        self.caption_drop = caption_drop
        self.steps, self.guidance = steps, guidance
        self.lr, self.weight_decay, self.warmup_steps = lr, weight_decay, warmup_steps
        if weights is not None:
            backbone.load_weights(weights)
            backbone.widen(0)

    def trained_state(self) -> dict[str, Tensor]:
        return {f"backbone.{k}": v for k, v in self.model.backbone.state_dict().items()}

    def format_config(self) -> dict[str, Any]:
        return {"text_coder": self.text_coder}

    def decoding_state(self) -> dict[str, Tensor]:
        return self.model.decoding_state()

    def encode(self, x: Tensor) -> list[list[bytes]]:
        captions = self.captioner(x)
        return [[self._encode_text(caption or "")] for caption in captions]

    def decode(
        self, payloads: list[list[bytes]], height: int, width: int, seeds: list[int]
    ) -> Tensor:
        captions = [self._decode_text(text) for (text,) in payloads]
        images = [
            self.model.reconstruct(
                height=height,
                width=width,
                caption=caption,
                index=None,
                indices=None,
                seed=seed,
                num_steps=self.steps,
                guidance=self.guidance,
            )
            for caption, seed in zip(captions, seeds, strict=True)
        ]
        return torch.cat(images)

    def ceiling(self, x: Tensor) -> Tensor:
        return self.model.backbone.latents.round_trip(x)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        captions = self.captioner(batch["image"], batch)
        # Dropped captions are "", through the text encoder: the null text moves with it.
        dropped = torch.rand(len(captions)) < self.caption_drop
        captions = ["" if d else c for c, d in zip(captions, dropped.tolist(), strict=True)]
        loss = self.model.losses(batch["image"], captions, None)["v_loss"]
        self.log("train/v_loss", loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        with torch.no_grad():
            self.model.null_text.copy_(self.model.backbone.embed_text([""]))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return warmed_up_adamw(
            [p for p in self.parameters() if p.requires_grad],
            lr=self.lr,
            weight_decay=self.weight_decay,
            warmup_steps=self.warmup_steps,
            num_steps=self.trainer.estimated_stepping_batches,
        )
