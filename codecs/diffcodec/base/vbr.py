"""The variable-rate mean-scale hyperprior: one network with a gain per rate."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from compressai.losses import RateDistortionLoss
from compressai.models import MeanScaleHyperpriorVbr
from torch import Tensor, nn

from diffcodec.base.compressai import LAMBDAS
from diffcodec.base.learned import WINDOW, LearnedCodec, size_of_z
from diffcodec.codec import Decoded
from diffcodec.coding.bitstream import BitstreamError
from diffcodec.coding.latent_coder import Code, whole
from diffcodec.points import Point, combine, listed

_VALUES_AT_ONCE = 1 << 20


class GainedHyperprior(MeanScaleHyperpriorVbr):
    """CompressAI's `mbt2018-mean-vbr` with gains computed from rate-distortion weights.

    Args:
        N, M: numbers of channels of the transforms and of y.
        lambdas: rate-distortion weight of each level.
    """

    def __init__(self, N: int, M: int, lambdas: Sequence[float]) -> None:
        super().__init__(N, M)
        self.lmbda, self.levels = list(lambdas), len(lambdas)
        # math.sqrt, because the last bit of torch's float32 square root depends on the CPU.
        gains = torch.tensor([math.sqrt(lmbda / LAMBDAS["mse"][-1]) for lmbda in lambdas])
        self.Gain = nn.Parameter(gains, requires_grad=False)  # CompressAI never trains it


class GainedContextModel:
    """Prediction of y by the hyperprior only, with a level's quantization step 1 / gain.

    Values that are not quantized to zero are reconstructed off the center of their quantization
    interval. A network computes the offset from the scale and the gain (Kamisli et al., DCC 2024).

    Args:
        model: the network.
        level: index of the gain.
    """

    def __init__(self, model: MeanScaleHyperpriorVbr, level: int) -> None:
        self._model = model
        self._gain = model.Gain[level]

    def __call__(self, parameters: Tensor, code: Code) -> Tensor:
        """See `diffcodec.coding.latent_coder.ContextModel`; the coded y is scaled by the gain."""
        symbols = self.symbols(parameters, code)
        scales, means = parameters.chunk(2, dim=1)
        coded = symbols != 0
        lower_bound = self._model.gaussian_conditional.lower_bound_scale
        scaled = lower_bound((scales[coded] * self._gain.cpu()).to(self._gain))
        offsets = [self._offset(part).cpu() for part in scaled.split(_VALUES_AT_ONCE)]
        values = symbols.float()
        values[coded] -= values[coded].sign() * torch.cat(offsets)
        return (values / self._gain.cpu()).add_(means)

    def symbols(self, parameters: Tensor, code: Code) -> Tensor:
        """Code the symbols without reconstructing y, which is sufficient for an encoder."""
        scales, means = parameters.chunk(2, dim=1)
        gain = self._gain.cpu()
        return code(whole, scales * gain, means * gain)

    def _offset(self, scales: Tensor) -> Tensor:
        """Offsets from the interval's center towards zero, (n,), for scales (n,); in steps."""
        inputs = torch.stack([scales, self._gain.expand_as(scales)], dim=1)
        offset: Tensor = self._model.QuantABCD(inputs)
        return offset[:, 0]


class VariableRateCodec(LearnedCodec):
    """CompressAI's `mbt2018-mean-vbr` (Kamisli et al., DCC 2024): y is scaled by a gain per level.

    The first section of a stream is one byte with the level. Each training step draws a level and
    uses that level's rate-distortion weight in the loss.

    Args:
        N, M: numbers of channels of the transforms and of y; 192 and 320 in the paper.
        lambdas: rate-distortion weight of each level, increasing; the paper's by default. Level i
            scales y by sqrt(lambdas[i] / 0.18), which gives the paper's gains for its lambdas.
        level: index into `lambdas`, one or several; each is an operating point, and null selects
            all levels.
        draw: relative frequency of each level in training; null draws all levels equally often.
        weights: null to train from scratch, or a source of `diffcodec.weights`.
        lr, aux_lr: learning rates of the network and of the factorized prior's quantiles.
        window: side of a tile in pixels, a multiple of 64; see `LearnedCodec`.

    Raises:
        ValueError: a level is unknown, lambdas do not increase, `draw` are not frequencies, or the
            weights do not fit N and M.
    """

    num_sections = 3
    min_window = 128

    def __init__(
        self,
        N: int = 192,
        M: int = 320,
        *,
        lambdas: Sequence[float] = LAMBDAS["mse"],
        level: int | Sequence[int] | None = None,
        draw: Sequence[float] | None = None,
        weights: str | None = None,
        lr: float = 1e-4,
        aux_lr: float = 1e-3,
        window: int = WINDOW,
    ) -> None:
        if not 1 <= len(lambdas) <= 256 or any(
            not 0 < a < b for a, b in pairwise([*lambdas, float("inf")])
        ):
            raise ValueError(f"lambdas must be 1 to 256 increasing positive numbers, got {lambdas}")
        count = len(lambdas)
        levels = list(range(count)) if level is None else sorted(listed(level))
        if not levels or not set(levels) <= set(range(count)):
            raise ValueError(f"unknown level {levels}, choose from 0 to {count - 1}")
        draw = [1.0] * count if draw is None else draw
        if len(draw) != count or min(draw) < 0 or sum(draw) <= 0:
            raise ValueError(
                f"draw must have {count} frequencies, one per lambda, got {list(draw)}"
            )
        model = GainedHyperprior(N, M, lambdas)
        points = combine(rate={"level": levels})
        super().__init__(model, lr=lr, aux_lr=aux_lr, points=points, window=window)
        self._draw = torch.tensor(draw, dtype=torch.float32)
        self._gains = model.Gain.detach().clone()
        self.register_load_state_dict_pre_hook(_check_gains)
        if weights is not None:
            self.load_weights(weights)

    def derived_state(self) -> set[str]:
        return super().derived_state() | {"model.Gain"}

    def decode(
        self,
        payloads: list[list[bytes]],
        height: int,
        width: int,
        seeds: list[int],
        point: Point,
    ) -> Decoded:
        decoded = super().decode(payloads, height, width, seeds, point)
        lmbda = [self.model.lmbda[payload[0][0]] for payload in payloads]
        return replace(decoded, lmbda=decoded.x_hat.new_tensor(lmbda))

    def simulate(self, x: Tensor, point: Point) -> Decoded:
        lmbda = x.new_full((len(x),), self.model.lmbda[level_of(point)])
        return replace(super().simulate(x, point), lmbda=lmbda)

    def rate_distortion(self, x: Tensor) -> dict[str, Tensor]:
        level = int(torch.multinomial(self._draw, 1))
        loss = RateDistortionLoss(self.model.lmbda[level])
        out: dict[str, Tensor] = loss(self.model(x, s=level), x)
        return out

    def _encode_image(self, x: Tensor, point: Point) -> list[bytes]:
        level = level_of(point)
        y = self._analyse(x)
        z = self.hyper_analysis(y)
        predict = GainedContextModel(self.model, level).symbols
        sections = self._prepared().encode(y.mul_(self.model.Gain[level]), z, predict)
        return [bytes([level]), *sections]

    def _model_forward(self, x: Tensor, point: Point) -> Tensor:
        x_hat: Tensor = self.model(x, s=level_of(point))["x_hat"]
        return x_hat

    def _decode_latents(self, payload: list[bytes], height: int, width: int) -> Tensor:
        tag, *sections = payload
        if len(tag) != 1 or tag[0] >= self.model.levels:
            raise BitstreamError(
                f"rate level 0x{tag.hex()} is not one of 0 to {self.model.levels - 1}"
            )
        context_model = GainedContextModel(self.model, tag[0])
        y_hat = self._prepared().decode(sections, *size_of_z(height, width), context_model)
        return y_hat.to(self.device)


def level_of(point: Point) -> int:
    """The level of an operating point."""
    return int(point.rate["level"])  # type: ignore[arg-type]


def _check_gains(module: VariableRateCodec, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Check that a checkpoint's gains, if any, agree with those computed from the lambdas."""
    own = module._gains
    given = state.get(f"{prefix}model.Gain", own)
    state[f"{prefix}model.Gain"] = own  # a checkpoint may have them in half precision
    # In bfloat16, a gain has an error of up to 0.2%.
    if given.shape != own.shape or not torch.allclose(given.to(own), own, rtol=4e-3):
        lambdas = (given.double().square() * LAMBDAS["mse"][-1]).tolist()
        raise ValueError(
            f"the weights were trained for lambdas {[float(f'{v:.2g}') for v in lambdas]}, not "
            f"for {module.model.lmbda}: set lambdas to those of the weights"
        )
