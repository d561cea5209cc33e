"""The small prior, which this project trained on photographs."""

import logging

from torch import nn

from diffcodec.diffusion.denoiser import ConsistencyDenoiser, Denoiser, EDMDenoiser
from diffcodec.sdedit.prior import Prior
from diffcodec.sdedit.small_unet import SmallUNet

log = logging.getLogger(__name__)

SIGMA_MIN = 0.002


class SmallPrior(Prior):
    """A fully convolutional prior with EDM's preconditioning, and its consistency model.

    Args:
        denoiser, consistency: the networks.
        max_sigma: the highest noise level that they were trained for.
    """

    def __init__(
        self, denoiser: SmallUNet, consistency: SmallUNet, *, max_sigma: float = 1.0
    ) -> None:
        super().__init__()
        self.max_sigma = max_sigma
        self.network = denoiser
        self.consistency_network = consistency
        self.multiple = max(denoiser.multiple, consistency.multiple)
        if not (denoiser.arguments()["weights"] and consistency.arguments()["weights"]):
            log.warning(
                "the small prior has no trained weights: give codec.prior.denoiser.weights= and "
                "codec.prior.consistency.weights="
            )

    def unets(self) -> list[nn.Module]:
        return [self.network, self.consistency_network]

    def build_denoiser(self) -> Denoiser:
        return EDMDenoiser(self.network)

    def build_consistency(self) -> Denoiser:
        return ConsistencyDenoiser(self.consistency_network, sigma_min=SIGMA_MIN)
