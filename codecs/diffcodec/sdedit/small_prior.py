"""The small prior, trained by this project on photographs."""

import logging
from typing import Any

from torch import Tensor, nn

from diffcodec.diffusion.denoiser import ConsistencyDenoiser, Denoiser, EDMDenoiser
from diffcodec.diffusion.tiling import check_window
from diffcodec.networks.tiles import in_tiles, reach, widest_margin
from diffcodec.sdedit.prior import Prior
from diffcodec.sdedit.small_unet import SmallUNet

WINDOW = 1024
log = logging.getLogger(__name__)

SIGMA_MIN = 0.002


class SmallPrior(Prior):
    """A fully convolutional prior with EDM's preconditioning, and its consistency model.

    Args:
        denoiser, consistency: networks of the denoiser and of the consistency model.
        max_sigma: highest noise level that the networks were trained for.
        window: side in pixels of the tiles of larger images. The receptive field is limited by the
            convolutions, to 96 pixels for the shipped networks. Each tile gets this margin, so its
            estimate equals that of the whole image and tiles are not blended.

    Raises:
        ValueError: the window is not a multiple of the networks' `multiple`.
    """

    def __init__(
        self,
        denoiser: SmallUNet,
        consistency: SmallUNet,
        *,
        max_sigma: float = 1.0,
        window: int = WINDOW,
    ) -> None:
        super().__init__(window)
        self.max_sigma = max_sigma
        self.network = denoiser
        self.consistency_network = consistency
        self.multiple = max(denoiser.multiple, consistency.multiple)
        check_window(window, self.multiple)
        if not (denoiser.arguments()["weights"] and consistency.arguments()["weights"]):
            log.warning(
                "the small prior has no trained weights: pass codec.prior.denoiser.weights and "
                "codec.prior.consistency.weights"
            )

    def unets(self) -> list[nn.Module]:
        return [self.network, self.consistency_network]

    @property
    def min_side(self) -> int:
        return 0  # smaller images are processed whole

    def _tiled(self, denoiser: Denoiser) -> Denoiser:
        assert self.window is not None
        return _ExactTiles(denoiser, self.window, self.multiple)

    def build_denoiser(self) -> Denoiser:
        return EDMDenoiser(self.network)

    def build_consistency(self) -> Denoiser:
        return ConsistencyDenoiser(self.consistency_network, sigma_min=SIGMA_MIN)


class _ExactTiles:
    """A denoiser with a limited receptive field, tiled without blending on large images."""

    def __init__(self, denoiser: Denoiser, window: int, multiple: int) -> None:
        self.denoiser = denoiser
        self.window = window
        self.multiple = multiple
        self._margin: int | None = None  # measured on first use

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        if max(x.shape[-2:]) <= self.window:
            return self.denoiser(x, sigma, **condition)

        def network(part: Tensor) -> Tensor:
            return self.denoiser(part, sigma, **condition)

        if self._margin is None:
            most = widest_margin(self.window, self.multiple)
            self._margin = reach(network, x, most=most, step=self.multiple)
        return in_tiles(network, x, window=self.window, margin=self._margin, step=self.multiple)
