"""Training a diffusion decoder through the few steps of its own sampler."""

from typing import Any, Protocol

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from diffcodec.codec import Codec, CodecOutput
from diffcodec.decoder_loss import DecoderLoss, with_discriminator
from diffcodec.optimization import clip_network, warmed_up_adamw
from diffcodec.points import Point


class FewStepDecoder(Protocol):
    """A codec whose decoder can be trained like this."""

    points: tuple[Point, ...]

    def resample(self, batch: dict[str, Any], point: Point) -> Tensor:
        """A batch -> what is decoded of its images at a point, (B, 3, H, W) in [0, 1].

        With gradients through all steps of the sampler.
        """


class FewStepTraining(LightningModule):
    """Trains the decoder of a codec end to end, through all steps of its sampler.

    A network that was trained to denoise needs many steps, since its estimate at a high noise level
    is a mean over what the image may have been. Trained through one to three steps with a
    perceptual and an adversarial loss, it makes one likely image instead. Every step draws one of
    the codec's operating points; gamma, the strength of the starting noise, is the weight of these
    two losses, so that gamma=0 is trained to be faithful, by the squared error alone, and gamma=1
    to look real, with the same weights.

    Args:
        codec: what is trained; its encoder stays as it is.
        loss: see `DecoderLoss`.
        faithful_mse_weight: weight of the squared error at gamma=0.
        lr, warmup_steps: of AdamW; the learning rate falls linearly to zero.
        discriminator_lr: of the discriminator.

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
        warmup_steps: int = 100,
        discriminator_lr: float = 2e-4,
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
        self.discriminator_lr = discriminator_lr

    @property
    def product(self) -> Codec:
        return self.codec

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        codec: Any = self.codec
        point = codec.points[int(torch.randint(len(codec.points), ()))]
        realism = min(1.0, float(point.decoding.get("gamma", 1.0)))
        x_hat, x = codec.resample(batch, point) * 2 - 1, batch["image"] * 2 - 1
        out = self.loss(x_hat, x, step=self.global_step, realism=realism)
        kind = "real" if realism else "faithful"
        for name, value in out.items():
            self.log(f"train/{kind}/{name}", value, prog_bar=name in ("mse", "perceptual"))
        if realism == 0:
            return self.faithful_mse_weight * out["mse"]
        return out["loss"]

    def validation_step(  # type: ignore[override]
        self, batch: dict[str, Any], batch_idx: int
    ) -> CodecOutput:
        """As the codec's, at its last operating point."""
        self.codec.select(self.codec.points[-1])
        return Codec.validation_step(self.codec, batch, batch_idx)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return warmed_up_adamw(
            with_discriminator(self.codec.parameters(), self.loss, lr=self.discriminator_lr),
            lr=self.lr,
            weight_decay=0.0,
            warmup_steps=self.warmup_steps,
            num_steps=self.trainer.estimated_stepping_batches,
        )

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, *_: Any, **__: Any
    ) -> None:
        clip_network(optimizer, gradient_clip_val)
