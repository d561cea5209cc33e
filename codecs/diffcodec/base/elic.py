"""ELIC (He et al., CVPR 2022): space-channel context with unevenly grouped channels."""

from collections.abc import Sequence
from typing import Any

from compressai.losses import RateDistortionLoss
from compressai.models import Elic2022Chandelier, Elic2022Official
from torch import Tensor

from diffcodec.base.context_models import ChannelGroups
from diffcodec.base.learned import WINDOW, LearnedCodec
from diffcodec.coding.hyper_synthesis import exact_synthesis
from diffcodec.coding.latent_coder import ContextModel
from diffcodec.networks.tiles import Network
from diffcodec.points import combine

VARIANTS = {"chandelier": Elic2022Chandelier, "official": Elic2022Official}

_Y = "latent_codec.y.latent_codec."
# From the keys of the public checkpoints to those of CompressAI's model; the first match applies.
KEY_TABLE: list[tuple[str, str | None]] = [
    (r"gaussian_conditional\.", None),
    (r"entropy_bottleneck\._matrix(\d)$", r"latent_codec.hyper.entropy_bottleneck.matrices.\1"),
    (r"entropy_bottleneck\._bias(\d)$", r"latent_codec.hyper.entropy_bottleneck.biases.\1"),
    (r"entropy_bottleneck\._factor(\d)$", r"latent_codec.hyper.entropy_bottleneck.factors.\1"),
    (r"(h_a|h_s|entropy_bottleneck)\.", r"latent_codec.hyper.\1."),
    *((rf"cc_transforms\.{i}\.", f"latent_codec.y.channel_context.y{i + 1}.") for i in range(4)),
    (r"context_prediction\.(\d)\.", _Y + r"y\1.context_prediction."),
    (r"ParamAggregation\.(\d)\.", _Y + r"y\1.entropy_parameters."),
]


class Elic(LearnedCodec):
    """ELIC with CompressAI's networks.

    Args:
        variant: `chandelier` (the reimplementation of the public checkpoints) or `official` (the
            paper's context model).
        N, M: numbers of channels of the transforms and of y.
        groups: numbers of channels of the groups of y, in coding order; they sum to M.
        lmbda: weight of 255^2 * MSE relative to the rate in training.
        weights: null to train from scratch, or a source of `diffcodec.weights`, with the keys of
            CompressAI or of the public ELIC checkpoints.
        lr, aux_lr: learning rates of the network and of the factorized prior's quantiles.
        window: side of a tile in pixels, a multiple of 64; see `LearnedCodec`.

    Raises:
        ValueError: the variant is unknown, the groups do not sum to M, or the weights do not fit.
    """

    min_window = 320

    def __init__(
        self,
        variant: str = "chandelier",
        N: int = 192,
        M: int = 320,
        groups: Sequence[int] = (16, 16, 32, 64, 192),
        *,
        lmbda: float = 0.0130,
        weights: str | None = None,
        lr: float = 1e-4,
        aux_lr: float = 1e-3,
        window: int = WINDOW,
    ) -> None:
        if variant not in VARIANTS:
            raise ValueError(f"unknown variant {variant!r}, choose from {sorted(VARIANTS)}")
        if sum(groups) != M:
            raise ValueError(f"groups {list(groups)} sum to {sum(groups)}, not to M={M}")
        model = VARIANTS[variant](N, M, list(groups))
        points = combine(rate={"lmbda": lmbda})
        super().__init__(model, lr=lr, aux_lr=aux_lr, points=points, window=window)
        self._variant = variant
        self._loss = RateDistortionLoss(lmbda)
        if weights is not None:
            self.load_weights(weights, KEY_TABLE)

    def format_config(self) -> dict[str, Any]:
        return {"variant": self._variant}

    def rate_distortion(self, x: Tensor) -> dict[str, Tensor]:
        out: dict[str, Tensor] = self._loss(self.model(x), x)
        return out

    @property
    def hyperprior(self) -> Any:
        return self.model.latent_codec["hyper"]

    def hyper_synthesis(self) -> Network:
        return exact_synthesis(self.hyperprior.h_s)

    def context_model(self) -> ContextModel:
        return ChannelGroups(self.model.latent_codec["y"])
