"""CompressAI's model zoo as codecs, with one network per quality."""

from collections.abc import Sequence
from typing import Any

import torch
from compressai.losses import RateDistortionLoss
from compressai.models import CompressionModel
from compressai.models.google import JointAutoregressiveHierarchicalPriors, MeanScaleHyperprior
from compressai.zoo.image import cfgs, model_architectures, model_urls
from compressai.zoo.pretrained import load_pretrained
from torch import Tensor

from diffcodec.base.context_models import RasterScan
from diffcodec.base.learned import WINDOW, LearnedCodec
from diffcodec.coding.hyper_synthesis import exact_synthesis
from diffcodec.coding.latent_coder import ContextModel, scales_alone, scales_then_means
from diffcodec.networks.tiles import Network
from diffcodec.points import Point, combine, listed
from diffcodec.weights.loading import load_strict
from diffcodec.weights.sources import ZOO, one_at_a_time

# Rate-distortion weights of CompressAI's zoo for qualities 1 to 8.
LAMBDAS = {
    "mse": (0.0018, 0.0035, 0.0067, 0.0130, 0.0250, 0.0483, 0.0932, 0.1800),
    "ms-ssim": (2.40, 4.58, 8.73, 16.64, 31.73, 60.50, 115.37, 220.00),
}

# The smallest window of each architecture; see `LearnedCodec.min_window`.
MIN_WINDOWS = {
    "bmshj2018-hyperprior": 128,
    "mbt2018-mean": 128,
    "mbt2018": 128,
    "cheng2020-anchor": 256,
    "cheng2020-attn": 384,
}

# Keys of older checkpoints, which CompressAI's own loader accepts.
OLDER_KEYS = [
    (r"(.*\.)downsample\.", r"\1skip."),
    (r"entropy_bottleneck\._biases\.(\d)", r"entropy_bottleneck._bias\1"),
    (r"entropy_bottleneck\._matrices\.(\d)", r"entropy_bottleneck._matrix\1"),
    (r"entropy_bottleneck\._factors\.(\d)", r"entropy_bottleneck._factor\1"),
]


class CompressAICodec(LearnedCodec):
    """A model of CompressAI's zoo, one network per quality.

    Args:
        architecture: `bmshj2018-hyperprior`, `mbt2018-mean`, `mbt2018`, `cheng2020-anchor` or
            `cheng2020-attn`.
        quality: 1 to 8 (to 6 for cheng2020), which selects the rate-distortion weight in training
            and the weights in the zoo. A list selects several pretrained networks for a curve.
        metric: `mse` or `ms-ssim`.
        size: `paper` for the zoo's numbers of channels at that quality, or the numbers themselves,
            as in `[64, 96]` for N and M.
        weights: null to train from scratch, `zoo` for CompressAI's weights, or a source of
            `diffcodec.weights`.
        lr, aux_lr: learning rates of the network and of the factorized prior's quantiles.
        window: side of a tile in pixels, a multiple of 64; see `LearnedCodec`.

    Raises:
        ValueError: an argument is not among its choices.
    """

    def __init__(
        self,
        architecture: str,
        quality: int | Sequence[int] = 3,
        *,
        metric: str = "mse",
        size: str | Sequence[int] = "paper",
        weights: str | None = None,
        lr: float = 1e-4,
        aux_lr: float = 1e-3,
        window: int = WINDOW,
    ) -> None:
        if architecture not in cfgs:
            raise ValueError(f"unknown architecture {architecture!r}, choose from {sorted(cfgs)}")
        if metric not in LAMBDAS:
            raise ValueError(f"unknown metric {metric!r}, choose from {sorted(LAMBDAS)}")
        qualities = listed(quality)
        known = sorted(cfgs[architecture])
        if not qualities or not set(qualities) <= set(known):
            raise ValueError(f"unknown quality {quality} for {architecture}, choose from {known}")
        if len(qualities) > 1 and weights != ZOO:
            raise ValueError(
                f"qualities {qualities} need one network each: pass one quality, or weights=zoo"
            )
        if weights == ZOO and size != "paper":
            raise ValueError(f"weights=zoo needs size=paper, got size={size}")
        self._architecture, self._metric, self._size = architecture, metric, size
        self.min_window = MIN_WINDOWS.get(architecture, self.min_window)
        super().__init__(
            self._build(qualities[0]),
            lr=lr,
            aux_lr=aux_lr,
            points=combine(rate={"quality": qualities}),
            window=window,
        )
        self._quality = qualities[0]
        self.only_by_source = len(qualities) > 1
        if weights == ZOO:
            self._load_zoo(self._quality)
        elif weights is not None:
            self.load_weights(weights)

    def load_weights(self, source: str, key_table: Sequence[tuple[str, str | None]] = ()) -> None:
        super().load_weights(source, [*key_table, *OLDER_KEYS])

    def load_point(self, point: Point) -> None:
        quality = int(point.rate["quality"])  # type: ignore[arg-type]
        if quality != self._quality:
            device = self.device
            self.model = self._build(quality)
            self._quality = quality
            self._load_zoo(quality)
            self.model.to(device)

    def hyper_analysis(self, y: Tensor) -> Tensor:
        # The scale hyperprior has zero means, so the sign of y carries no information on its scale.
        return super().hyper_analysis(y if isinstance(self.model, MeanScaleHyperprior) else y.abs())

    def hyper_synthesis(self) -> Network:
        if self.context_model() is scales_then_means:
            return super().hyper_synthesis()
        return exact_synthesis(self.hyperprior.h_s)

    def context_model(self) -> ContextModel:
        if isinstance(self.model, JointAutoregressiveHierarchicalPriors):
            return RasterScan(self.model)
        return scales_then_means if isinstance(self.model, MeanScaleHyperprior) else scales_alone

    def rate_distortion(self, x: Tensor) -> dict[str, Tensor]:
        lmbda = LAMBDAS[self._metric][self._quality - 1]
        out: dict[str, Tensor] = RateDistortionLoss(lmbda, self._metric)(self.model(x), x)
        return out

    def format_config(self) -> dict[str, Any]:
        return {"architecture": self._architecture}

    def _build(self, quality: int) -> CompressionModel:
        channels = cfgs[self._architecture][quality]
        if self._size != "paper":
            if isinstance(self._size, str) or len(self._size) != len(channels):
                raise ValueError(
                    f"size must be 'paper' or {len(channels)} numbers of channels such as "
                    f"{list(channels)}, got {self._size!r}"
                )
            channels = tuple(self._size)
        return model_architectures[self._architecture](*channels)

    def _load_zoo(self, quality: int) -> None:
        url = model_urls[self._architecture][self._metric][quality]
        try:
            with one_at_a_time():
                state = torch.hub.load_state_dict_from_url(
                    url, map_location="cpu", check_hash=True, weights_only=True
                )
        except (OSError, RuntimeError) as error:
            raise ValueError(f"could not get CompressAI's weights from {url}: {error}") from error
        load_strict(self.model, load_pretrained(state), source=url)
