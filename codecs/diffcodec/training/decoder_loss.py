"""The loss that decoders are trained with: squared error, a perceptual and an adversarial term."""

from typing import Any

from torch import Tensor, nn

from diffcodec.training.adversarial import PatchDiscriminator
from diffcodec.training.perceptual import PerceptualLoss


class DecoderLoss(nn.Module):
    """Squared error + a perceptual distance + an adversarial loss (Esser et al. 2021, Sec. 3.1).

    Args:
        mse_weight: of the squared error of images in [-1, 1].
        perceptual_weight: of the perceptual distance; 0 leaves it out.
        perceptual, vgg_weights: see `PerceptualLoss`.
        adversarial_weight: of the discriminator's verdict; 0 leaves it out.
        adversarial_start: first step in which the discriminator counts; it is trained 200 steps
            longer.
        width: of the discriminator.

    Raises:
        ValueError: a negative weight, an unknown perceptual loss, or its weights cannot be had.
    """

    HEAD_START = 200

    def __init__(
        self,
        *,
        mse_weight: float = 1.0,
        perceptual_weight: float = 1.0,
        perceptual: str | None = None,
        vgg_weights: str | None = None,
        adversarial_weight: float = 0.0,
        adversarial_start: int = 0,
        width: int = 32,
    ) -> None:
        super().__init__()
        weights = {
            "mse_weight": mse_weight,
            "perceptual_weight": perceptual_weight,
            "adversarial_weight": adversarial_weight,
        }
        for name, value in weights.items():
            if value < 0:
                raise ValueError(f"{name} must be at least 0, got {value:g}")
        self.weights = weights
        self.adversarial_start = adversarial_start
        self._perceptual = None
        if perceptual_weight:
            self._perceptual = PerceptualLoss(
                perceptual, wanted_by="perceptual_weight > 0", vgg_weights=vgg_weights
            )
        self.discriminator = PatchDiscriminator(width) if adversarial_weight else None

    def forward(
        self, x_hat: Tensor, x: Tensor, *, step: int, realism: float = 1.0
    ) -> dict[str, Tensor]:
        """The terms of the loss of decoded images.

        Args:
            x_hat, x: decoded images and originals, (B, 3, H, W) in [-1, 1].
            step: of the optimizer.
            realism: factor of the perceptual and the adversarial term, in [0, 1].

        Returns:
            Scalars: `loss`, their weighted sum; `mse`; `perceptual` and `adversarial` where they
            count; `discriminator`, part of the sum but without a gradient to `x_hat`.
        """
        x_hat = x_hat.float()
        terms = {"mse": (x_hat - x).square().mean()}
        loss = self.weights["mse_weight"] * terms["mse"]
        if self._perceptual is not None and realism > 0:
            terms["perceptual"] = self._perceptual(x_hat, x)
            loss = loss + realism * self.weights["perceptual_weight"] * terms["perceptual"]
        if self.discriminator is not None and realism > 0:
            if step >= self.adversarial_start:
                terms["adversarial"] = self.discriminator.generator_loss(x_hat)
                loss = loss + realism * self.weights["adversarial_weight"] * terms["adversarial"]
            if step >= self.adversarial_start - self.HEAD_START:
                terms["discriminator"] = self.discriminator.loss(x_hat, x)
                loss = loss + terms["discriminator"]
        return {"loss": loss, **terms}


def parameter_groups(
    network: nn.Module,
    loss: DecoderLoss,
    *,
    discriminator_lr: float,
    aux_lr: float | None = None,
    only: tuple[str, ...] = ("",),
) -> list[dict[str, Any]]:
    """Groups of one optimizer: a network, the quantiles of factorized priors, a discriminator.

    One backward pass serves all, as none of their losses has a gradient to another group.

    Args:
        network: what is trained; frozen parameters are left out.
        loss: of the decoder.
        discriminator_lr: learning rate of the discriminator.
        aux_lr: of the parameters named `….quantiles`; None treats them as the others.
        only: beginnings of the names of parameters that are trained.
    """
    named = [
        (n, p) for n, p in network.named_parameters() if p.requires_grad and n.startswith(only)
    ]
    quantiles = [p for n, p in named if aux_lr is not None and n.endswith("quantiles")]
    own = {id(p) for p in quantiles}
    groups: list[dict[str, Any]] = [{"params": [p for _, p in named if id(p) not in own]}]
    if quantiles:
        groups.append({"params": quantiles, "lr": aux_lr})
    if loss.discriminator is not None:
        adversary = [*loss.discriminator.parameters()]
        groups.append({"params": adversary, "lr": discriminator_lr, "betas": (0.5, 0.9)})
    return groups
