"""The loss of decoders: squared error, perceptual distance and adversarial loss."""

from typing import Any

from torch import Tensor, nn

from diffcodec.training.adversarial import PatchDiscriminator
from diffcodec.training.perceptual import PerceptualLoss


class DecoderLoss(nn.Module):
    """Squared error, perceptual distance and adversarial loss (Esser et al. 2021, Sec. 3.1).

    Args:
        mse_weight: weight of the squared error of images in [-1, 1].
        perceptual_weight: weight of the perceptual distance; 0 disables it.
        perceptual, vgg_weights: choice and weights of the perceptual loss, see `PerceptualLoss`.
        adversarial_weight: weight of the adversarial loss; 0 disables it.
        adversarial_start: first step with the adversarial loss; the discriminator's own training
            starts 200 steps earlier.
        width: number of channels of the discriminator's first layer.

    Raises:
        ValueError: a weight is negative, the perceptual loss is unknown, or its weights cannot be
            loaded.
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
        self,
        x_hat: Tensor,
        x: Tensor,
        *,
        step: int,
        realism: float = 1.0,
        mse_weight: float | None = None,
    ) -> dict[str, Tensor]:
        """Compute the loss and its terms.

        Args:
            x_hat, x: reconstructions and originals, (B, 3, H, W) in [-1, 1].
            step: optimizer step.
            realism: factor of the perceptual and the adversarial term, in [0, 1].
            mse_weight: weight of the squared error in this call; None selects the module's.

        Returns:
            Scalars: `loss`, the weighted sum of all terms; `mse`; `perceptual`, `adversarial` and
            `discriminator` while they are enabled. `discriminator` has no gradient for `x_hat`.
        """
        x_hat = x_hat.float()
        terms = {"mse": (x_hat - x).square().mean()}
        loss = (self.weights["mse_weight"] if mse_weight is None else mse_weight) * terms["mse"]
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
    """Parameter groups of one optimizer: network, quantiles of factorized priors, discriminator.

    One backward pass is enough, because no loss has a gradient for the parameters of another group.

    Args:
        network: network to train; frozen parameters are excluded.
        loss: loss of the decoder, which may have a discriminator.
        discriminator_lr: learning rate of the discriminator.
        aux_lr: learning rate of parameters named `….quantiles`; None treats them as the others.
        only: prefixes of the names of the parameters to train.
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
