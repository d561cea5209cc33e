"""Training of a diffusion decoder through the few steps of its own sampler."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from diffcodec.codec import Codec
from diffcodec.measuring import CodecOutput, code_batch
from diffcodec.points import Point
from diffcodec.training.decoder_loss import DecoderLoss, parameter_groups
from diffcodec.training.optimization import clip_network, warmed_up_adamw


@dataclass(frozen=True)
class Resampled:
    """Reconstructions in training, with gradients through all steps of the sampler.

    Attributes:
        x_hat: reconstructions, (B, 3, H, W) in [0, 1].
        loss: additional loss, such as the weighted rate of an encoder that is trained jointly; None
            if only the decoder is trained.
        logged: scalars to log.
    """

    x_hat: Tensor
    loss: Tensor | None = None
    logged: Mapping[str, Tensor] = field(default_factory=dict)


class FewStepDecoder(Protocol):
    """A codec that can be trained through the steps of its decoder."""

    points: tuple[Point, ...]

    def resample(self, batch: dict[str, Any], point: Point) -> Resampled:
        """Encode and decode the images of a batch at an operating point."""


class FewStepTraining(LightningModule):
    """Trains a codec through all steps of its decoder's sampler.

    A network trained to denoise needs many steps: at a high noise level, its estimate is a mean
    over all plausible images. Trained through one to three steps with a perceptual and an
    adversarial loss, it generates one plausible image instead.

    Every training step draws one of the codec's operating points. Gamma, the strength of the
    initial noise, is the weight of the two losses. The same weights thus learn low distortion at
    gamma=0, by the squared error only, and realism at gamma=1.

    Args:
        codec: codec to train. The base codec of `ResidualCDC` stays frozen. The encoder of `CDC` is
            also trained, by the rate times `lmbda`; with a `denoising_weight`, `CDC` also keeps its
            loss at random timesteps. Of `PerCo` the U-Net is trained, and also keeps its denoising
            loss unless `finetune=low_rank`.
        loss: loss of the reconstructions, see `DecoderLoss`.
        faithful_mse_weight: weight of the squared error at gamma=0, in place of the loss's own.
        lr, aux_lr, discriminator_lr: learning rates of AdamW for the network, the quantiles of
            factorized priors and the discriminator; they fall linearly to zero.
        warmup_steps: number of steps of linear warm-up.

    Attributes:
        product: the codec that is exported after training.

    Raises:
        ValueError: the codec has no method `resample`.
    """

    def __init__(
        self,
        codec: Codec,
        *,
        loss: DecoderLoss,
        faithful_mse_weight: float = 50.0,
        lr: float = 3e-4,
        aux_lr: float = 1e-2,
        discriminator_lr: float = 2e-4,
        warmup_steps: int = 100,
    ) -> None:
        super().__init__()
        if not hasattr(codec, "resample"):
            raise ValueError(
                f"{type(codec).__name__} has no decoder that can be trained through its steps"
            )
        self.codec = codec
        self.loss = loss
        self.faithful_mse_weight = faithful_mse_weight
        self.lr, self.warmup_steps = lr, warmup_steps
        self.aux_lr, self.discriminator_lr = aux_lr, discriminator_lr

    @property
    def product(self) -> Codec:
        return self.codec

    def setup(self, stage: str) -> None:
        self.codec.setup(stage)  # Lightning calls the hooks of the outermost module only

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        codec: Any = self.codec
        point = codec.points[int(torch.randint(len(codec.points), ()))]
        realism = min(1.0, point.setting("gamma", float, 1.0))
        decoded: Resampled = codec.resample(batch, point)
        x_hat, x = decoded.x_hat * 2 - 1, batch["image"] * 2 - 1
        mse_weight = None if realism else self.faithful_mse_weight
        out = self.loss(x_hat, x, step=self.global_step, realism=realism, mse_weight=mse_weight)
        kind = "real" if realism else "faithful"
        for name, value in {**out, **decoded.logged}.items():
            self.log(f"train/{kind}/{name}", value, prog_bar=name in ("mse", "perceptual", "bpp"))
        loss = out["loss"]
        return loss if decoded.loss is None else loss + decoded.loss

    def validation_step(  # type: ignore[override]
        self, batch: dict[str, Any], batch_idx: int
    ) -> CodecOutput:
        """The evaluation step at the codec's last operating point."""
        return code_batch(self.codec, batch, self.codec.points[-1:])

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return warmed_up_adamw(
            parameter_groups(
                self.codec, self.loss, aux_lr=self.aux_lr, discriminator_lr=self.discriminator_lr
            ),
            lr=self.lr,
            weight_decay=0.0,
            warmup_steps=self.warmup_steps,
            num_steps=self.trainer.estimated_stepping_batches,
        )

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, *_: Any, **__: Any
    ) -> None:
        clip_network(optimizer, gradient_clip_val)
