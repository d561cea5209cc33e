"""The variable-rate mean-scale hyperprior: one network, a gain per rate, a whole curve."""

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
from diffcodec.base.learned import WINDOW, LearnedCodec
from diffcodec.bitstream import BitstreamError
from diffcodec.codec import Decoded
from diffcodec.points import combine, listed


class VariableRateCodec(LearnedCodec):
    """CompressAI's `mbt2018-mean-vbr` (Kamisli et al., DCC 2024): y is scaled by a gain per level.

    The level travels in the stream, in a byte of its own. In training a level is drawn per step and
    the loss has that level's rate-distortion weight.

    Args:
        N, M: channels of the transforms and of y; 192 and 320 in the paper.
        lambdas: rate-distortion weight of each level, rising; the paper's by default. Level i
            scales y by sqrt(lambdas[i] / 0.18), which makes the paper's gains of its lambdas.
        level: operating points, as indices into `lambdas`, one or several; null is all of them.
        draw: how often each level is drawn in training, relatively; null draws all alike.
        weights: null (from scratch) or a source of `diffcodec.weights`.
        lr, aux_lr: learning rates of the network and of the factorized prior's quantiles.
        window: of `LearnedCodec`.

    Raises:
        ValueError: an unknown level, lambdas that do not rise or draws that are no frequencies, or
            weights that do not fit N and M.
    """

    num_sections = 3

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
            raise ValueError(f"lambdas must be 1 to 256 rising positive numbers, got {lambdas}")
        count = len(lambdas)
        levels = list(range(count)) if level is None else sorted(listed(level))
        if not levels or not set(levels) <= set(range(count)):
            raise ValueError(f"unknown level {levels}, choose from 0 to {count - 1}")
        draw = [1.0] * count if draw is None else draw
        if len(draw) != count or min(draw) < 0 or sum(draw) <= 0:
            raise ValueError(f"draw {list(draw)} must be {count} frequencies, one per lambda")
        model = MeanScaleHyperpriorVbr(N, M)
        # Not torch's float32 square roots: their last bit depends on the processor.
        gains = torch.tensor([math.sqrt(lmbda / LAMBDAS["mse"][-1]) for lmbda in lambdas])
        model.lmbda, model.levels = list(lambdas), count
        model.Gain = nn.Parameter(gains, requires_grad=False)  # CompressAI never trains it
        points = combine(rate={"level": levels})
        super().__init__(model, lr=lr, aux_lr=aux_lr, points=points, window=window)
        self._draw = torch.tensor(draw, dtype=torch.float32)
        self._gains = gains
        self.register_load_state_dict_pre_hook(_check_gains)
        if weights is not None:
            self.load_weights(weights)

    def derived_state(self) -> set[str]:
        return super().derived_state() | {"model.Gain"}

    @property
    def level(self) -> int:
        """The gain that `compress` uses."""
        return int(self.point.rate["level"])  # type: ignore[arg-type]

    def decode_all(
        self, payloads: list[list[bytes]], height: int, width: int, seeds: list[int]
    ) -> Decoded:
        decoded = super().decode_all(payloads, height, width, seeds)
        lmbda = [self.model.lmbda[payload[0][0]] for payload in payloads]
        return replace(decoded, lmbda=decoded.x_hat.new_tensor(lmbda))

    def simulate(self, x: Tensor) -> Decoded:
        lmbda = x.new_full((len(x),), self.model.lmbda[self.level])
        return replace(super().simulate(x), lmbda=lmbda)

    def rate_distortion(self, x: Tensor) -> dict[str, Tensor]:
        level = int(torch.multinomial(self._draw, 1))
        loss = RateDistortionLoss(self.model.lmbda[level])
        out: dict[str, Tensor] = loss(self.model(x, s=level), x)
        return out

    def _tiles(self) -> dict[str, nn.Module]:
        return {**super()._tiles(), "QuantABCD": _ByChannel(self.model.QuantABCD)}

    def _encode_image(self, x: Tensor) -> list[bytes]:
        return [bytes([self.level]), *self._model_encode(x, s=self.level)]

    def _model_forward(self, x: Tensor) -> Tensor:
        x_hat: Tensor = self.model(x, s=self.level)["x_hat"]
        return x_hat

    def _decode_image(self, payload: list[bytes], height: int, width: int) -> Tensor:
        tag, *sections = payload
        if len(tag) != 1 or tag[0] >= self.model.levels:
            raise BitstreamError(
                f"rate level 0x{tag.hex()} is not one of 0 to {self.model.levels - 1}"
            )
        return self._model_decode(sections, height, width, s=tag[0])


class _ByChannel(nn.Module):
    """The network of quantisation offsets, which looks at each value of y alone, by channels.

    Its hidden layer has twelve numbers for each of them.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(1, M, h, w, 2) -> (1, M, h, w, 1)."""
        # Into memory of its own: results between what the hidden layer takes and gives back keep
        # the allocator from joining that, which was up to 1.5 GB for 8192x8192.
        out = x.new_empty(*x.shape[:-1], 1)
        for i in range(x.shape[1]):
            out[:, i] = self.network(x[:, i])
        return out


def _check_gains(module: VariableRateCodec, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """The gains follow from the lambdas: those of a checkpoint must agree, where it has any."""
    own = module._gains
    given = state.get(f"{prefix}model.Gain", own)
    state[f"{prefix}model.Gain"] = own  # not those of a checkpoint in half precision
    # A checkpoint in bfloat16 is off by up to 0.2%.
    if given.shape != own.shape or not torch.allclose(given.to(own), own, rtol=4e-3):
        lambdas = (given.double().square() * LAMBDAS["mse"][-1]).tolist()
        raise ValueError(
            f"the weights were trained for lambdas {[float(f'{v:.2g}') for v in lambdas]}, not "
            f"for {module.model.lmbda}: set lambdas to theirs"
        )
