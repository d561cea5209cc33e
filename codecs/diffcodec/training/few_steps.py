"""Training a diffusion decoder through the few steps of its own sampler."""

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
    """What a codec decodes in training, with gradients through all steps of its sampler.

    Attributes:
        x_hat: the decoded images, (B, 3, H, W) in [0, 1].
        loss: what is minimized beside the loss of the images, such as the weighted rate of an
            encoder that is trained along; None where only the decoder is trained.
        logged: scalars to log.
    """

    x_hat: Tensor
    loss: Tensor | None = None
    logged: Mapping[str, Tensor] = field(default_factory=dict)


class FewStepDecoder(Protocol):
    """A codec that can be trained through the steps of its decoder."""

    points: tuple[Point, ...]

    def resample(self, batch: dict[str, Any], point: Point) -> Resampled:
        """Decode the images of a batch at a point."""


class FewStepTraining(LightningModule):
    """Trains a codec through all steps of its decoder's sampler.

    A network that was trained to denoise needs many steps, since its estimate at a high noise level
    is a mean over what the image may have been. Trained through one to three steps with a
    perceptual and an adversarial loss, it makes one likely image instead. Every step draws one of
    the codec's operating points; gamma, the strength of the starting noise, is the weight of these
    two losses, so that gamma=0 is trained to be faithful, by the squared error alone, and gamma=1
    to look real, with the same weights.

    Args:
        codec: what is trained. `ResidualCDC` keeps its base codec; of `CDC` the encoder is trained
            as well, by the rate times `lmbda`.
        loss: see `DecoderLoss`.
        faithful_mse_weight: weight of the squared error at gamma=0.
        lr, aux_lr, discriminator_lr: of AdamW for the network, for the quantiles of factorized
            priors and for the discriminator; the learning rates fall linearly to zero.
        warmup_steps: in which they rise.

    Attributes:
        product: the codec.

    Raises:
        ValueError: the codec cannot be trained like this.
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

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        codec: Any = self.codec
        point = codec.points[int(torch.randint(len(codec.points), ()))]
        realism = min(1.0, float(point.decoding.get("gamma", 1.0)))
        decoded: Resampled = codec.resample(batch, point)
        x_hat, x = decoded.x_hat * 2 - 1, batch["image"] * 2 - 1
        out = self.loss(x_hat, x, step=self.global_step, realism=realism)
        kind = "real" if realism else "faithful"
        for name, value in {**out, **decoded.logged}.items():
            self.log(f"train/{kind}/{name}", value, prog_bar=name in ("mse", "perceptual", "bpp"))
        loss = out["loss"] if realism else self.faithful_mse_weight * out["mse"]
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
