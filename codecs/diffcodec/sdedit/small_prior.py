"""The small prior, which this project trained on photographs."""

import logging
from collections.abc import Sequence

from diffcodec.diffusion.denoiser import ConsistencyDenoiser, Denoiser, EDMDenoiser
from diffcodec.sdedit.prior import Prior
from diffcodec.sdedit.small_unet import SmallUNet
from diffcodec.weights import load_checkpoint, load_strict, state_dict_of

log = logging.getLogger(__name__)

SIGMA_MIN = 0.002


class SmallPrior(Prior):
    """A fully convolutional prior with EDM's preconditioning, and its consistency model.

    Args:
        channels, layers: of both networks.
        weights, consistency_weights: of the denoiser and of the consistency model: null (random),
            or a source of `diffcodec.weights`; `package:` means what ships.
        max_sigma: the highest noise level that they were trained for.

    Raises:
        ValueError: the weights cannot be had or do not fit.
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 104),
        layers: int = 2,
        *,
        weights: str | None = None,
        consistency_weights: str | None = None,
        max_sigma: float = 1.0,
    ) -> None:
        super().__init__()
        self.max_sigma = max_sigma
        self.network = load_network(channels, layers, weights)
        self.consistency_network = load_network(channels, layers, consistency_weights)
        self.multiple = self.network.multiple
        if weights is None or consistency_weights is None:
            log.warning(
                "the small prior has no trained weights: give codec.prior.weights= and "
                "codec.prior.consistency_weights="
            )

    def build_denoiser(self) -> Denoiser:
        return EDMDenoiser(self.network)

    def build_consistency(self) -> Denoiser:
        return ConsistencyDenoiser(self.consistency_network, sigma_min=SIGMA_MIN)


def load_network(channels: Sequence[int], layers: int, weights: str | None) -> SmallUNet:
    """The small prior's network, as `experiment=sdedit/…` writes its weights.

    Raises:
        ValueError: the weights cannot be had or do not fit.
    """
    network = SmallUNet(channels, layers)
    if weights is not None:
        checkpoint = load_checkpoint(weights, package="diffcodec.sdedit")
        load_strict(network, state_dict_of(checkpoint, prefix="network."), source=weights)
    return network
