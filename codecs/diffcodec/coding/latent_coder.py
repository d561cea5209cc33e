"""The latents of a hyperprior <-> bytes that every machine decodes to the same latents.

    z -> factorized prior -> section z
    h_s(z_hat) -> context model -> scales and means of y
    y | scales, means -> conditional -> section y

The decoder loses its place unless it finds the encoder's entry of the scale table for every symbol.
Tables are therefore built in float64 and h_s is computed in integers; between the two stand single
correctly rounded operations on each value.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from diffcodec.coding.bitstream import BitstreamError
from diffcodec.coding.rans import (
    RansReader,
    Tables,
    check_symbols,
    conditional_tables,
    factorized_tables,
    rans_decode,
    rans_encode,
)
from diffcodec.networks.tiles import Network, by_tiles

if TYPE_CHECKING:
    from compressai.entropy_models import EntropyBottleneck, GaussianConditional

WINDOW = 64  # values of z a side that the hyper-synthesis sees at once
UP = 4  # values of y a side for one of z

Part = Callable[[Tensor], Tensor]
"""Picks what is coded next out of y, (1, C, H, W)."""


class Code(Protocol):
    """Codes a part of y; the same call writes it in the encoder and reads it in the decoder."""

    def __call__(self, part: Part, scales: Tensor, means: Tensor | None = None) -> Tensor:
        """Parameters of a part -> its symbols, round(y - means): int32, on the CPU.

        Args:
            part: which part of y.
            scales, means: of the part's shape, on any device; no means are means of zero.
        """
        ...


ContextModel = Callable[[Tensor, Code], Tensor]
"""What y is predicted by: (h_s(z_hat), code) -> y_hat.

It calls `code` for one part of y after the other, until each value was coded once, and may use the
symbols that it was given for the parts to come. h_s(z_hat) is (1, P, 4h, 4w), float64 on the CPU.
"""


def scales_then_means(parameters: Tensor, code: Code) -> Tensor:
    """A hyperprior without context model: all of y at once, parameters are scales, then means."""
    scales, means = parameters.chunk(2, dim=1)
    return (code(whole, scales, means) + means).float()


def scales_alone(parameters: Tensor, code: Code) -> Tensor:
    """A hyperprior without context model and with zero means: all of y at once."""
    return code(whole, parameters).float()


def whole(y: Tensor) -> Tensor:
    """All of y."""
    return y


class LatentCoder:
    """Codes y and z of one image; built from a hyperprior's weights, and frozen.

    The hyper-synthesis of a large image is computed in tiles, which is the same to the last bit.

    It is no module: what it holds follows from the weights, stays on the CPU and is not saved.

    Args:
        prior: factorized prior of z.
        conditional: distribution of y, of which each scale has a table.
        hyper_synthesis: h_s, z_hat (1, C', h, w) -> parameters (1, P, 4h, 4w), to be the same
            everywhere in exact arithmetic (`diffcodec.coding.integer_convolutions`).
        channels: C, of y.
        scales: of the tables, (n,), rising.
        borders: between the scales, (n - 1,), float64: y is coded with the first scale whose border
            is not below its own.
    """

    def __init__(
        self,
        prior: "EntropyBottleneck",
        conditional: "GaussianConditional",
        hyper_synthesis: Network,
        *,
        channels: int,
        scales: Tensor,
        borders: Tensor,
    ) -> None:
        self._hyper_synthesis = hyper_synthesis
        self._channels = channels
        self._medians = prior.quantiles[:, 0, 1].detach().cpu().double()[:, None, None]
        self._z = factorized_tables(prior)
        self._y = conditional_tables(conditional, scales)
        self._borders = borders

    def tables(self) -> dict[str, Tensor]:
        """The integer tables that the decoder must share."""
        return {**self._z.named("z"), **self._y.named("y")}

    def encode(self, y: Tensor, z: Tensor, context_model: ContextModel) -> list[bytes]:
        """Latents of one image -> sections for z and y.

        Args:
            y, z: (1, C, 4h, 4w) and (1, C', h, w), unquantised, on any device.
            context_model: predicts y; the y_hat that it returns is not used.

        Raises:
            ValueError: a latent is not finite or beyond +-2^26, which no trained network makes.
        """
        z_symbols = _round_(z.cpu() - self._medians)
        writer = _Writer(y.cpu(), self._y, self._borders)
        context_model(self._parameters(z_symbols), writer)
        z_section = rans_encode(z_symbols, _channel_indexes(z_symbols.shape), self._z)
        return [z_section, writer.section()]

    def decode(
        self, sections: list[bytes], height: int, width: int, context_model: ContextModel
    ) -> Tensor:
        """Sections -> y_hat (1, C, 4 height, 4 width), as the context model makes it.

        Args:
            sections: of z and y.
            height, width: of z.
            context_model: of the encoder.

        Raises:
            BitstreamError: they are not what `encode` writes for an image of that size.
        """
        if len(sections) != 2:
            raise BitstreamError(f"an image has 2 sections, z and y, got {len(sections)}")
        indexes = _channel_indexes(torch.Size((1, len(self._medians), height, width)))
        z_symbols = rans_decode(sections[0], indexes, self._z)
        _check_section("z", sections[0], z_symbols, indexes, self._z)
        num_symbols = self._channels * height * width * UP**2
        reader = _Reader(sections[1], num_symbols, self._y, self._borders)
        y_hat = context_model(self._parameters(z_symbols), reader)
        reader.check()
        return y_hat

    def _parameters(self, z_symbols: Tensor) -> Tensor:
        z_hat = z_symbols + self._medians
        return by_tiles(self._hyper_synthesis, z_hat, window=WINDOW, up=UP).contiguous()


class _Writer:
    """The `Code` of an encoder: gathers symbols, and which table each is coded with."""

    def __init__(self, y: Tensor, tables: Tables, borders: Tensor) -> None:
        self._y = y
        self._tables = tables
        self._borders = borders
        self._symbols: list[Tensor] = []
        self._indexes: list[Tensor] = []

    def __call__(self, part: Part, scales: Tensor, means: Tensor | None = None) -> Tensor:
        y = part(self._y)
        symbols = _round_(y.clone() if means is None else y - means.cpu())
        self._symbols.append(symbols.flatten())
        self._indexes.append(_scale_indexes(scales, self._borders).flatten())
        return symbols

    def section(self) -> bytes:
        """All that was coded."""
        return rans_encode(_joined(self._symbols), _joined(self._indexes), self._tables)


class _Reader:
    """The `Code` of a decoder: reads the symbols that a `_Writer` gathered."""

    def __init__(self, data: bytes, num_symbols: int, tables: Tables, borders: Tensor) -> None:
        self._data = data
        self._rans = RansReader(data, num_symbols, tables)
        self._tables = tables
        self._borders = borders
        self._symbols: list[Tensor] = []
        self._indexes: list[Tensor] = []

    def __call__(self, part: Part, scales: Tensor, means: Tensor | None = None) -> Tensor:
        indexes = _scale_indexes(scales, self._borders)
        symbols = self._rans.read(indexes)
        self._symbols.append(symbols.flatten())
        self._indexes.append(indexes.flatten())
        return symbols

    def check(self) -> None:
        """Refuse data that no encoder wrote for these symbols."""
        symbols, indexes = _joined(self._symbols), _joined(self._indexes)
        _check_section("y", self._data, symbols, indexes, self._tables)


def _round_(values: Tensor) -> Tensor:
    """Round in place, for there may be a hundred million values, and return them as int32."""
    check_symbols(values.round_())
    return values.int()


def _scale_indexes(scales: Tensor, borders: Tensor) -> Tensor:
    return torch.bucketize(scales.cpu().double().contiguous(), borders, out_int32=True)


def _channel_indexes(shape: torch.Size) -> Tensor:
    return torch.arange(shape[1]).reshape(1, -1, 1, 1).expand(shape)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _check_section(
    name: str, data: bytes, symbols: Tensor, indexes: Tensor, tables: Tables
) -> None:
    # The range decoder takes any bytes for symbols: only what the encoder writes is accepted.
    try:
        written = rans_encode(symbols, indexes, tables)
    except ValueError as error:
        raise BitstreamError(f"section {name} holds a symbol that no encoder codes") from error
    if written != data:
        raise BitstreamError(f"section {name} is truncated, corrupted or of another image size")


def scale_table() -> list[float]:
    """CompressAI's scales, evenly spaced by ratio, from the math library's exponential."""
    from compressai.models.base import SCALES_LEVELS, SCALES_MAX, SCALES_MIN

    low, high = math.log(SCALES_MIN), math.log(SCALES_MAX)
    steps = SCALES_LEVELS - 1
    return [math.exp(low + i * (high - low) / steps) for i in range(SCALES_LEVELS)]
