"""Entropy coding of a hyperprior's latents, which decode to the same values on every machine.

    z -> factorized prior -> section z
    h_s(z_hat) -> context model -> scales and means of y
    y | scales, means -> conditional -> section y

For every symbol, the decoder must select the same entry of the scale table as the encoder, or all
following symbols are wrong. Tables are therefore built in float64, and h_s is computed in integers.
All operations in between are single correctly rounded operations on each value.
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

WINDOW = 64  # side of a tile of the hyper-synthesis, in values of z
UP = 4  # values of y per value of z, along a side

Part = Callable[[Tensor], Tensor]
"""Selects the part of y (1, C, H, W) that is coded next."""


class Code(Protocol):
    """Codes a part of y: the encoder's `Code` writes symbols, the decoder's reads them."""

    def __call__(self, part: Part, scales: Tensor, means: Tensor | None = None) -> Tensor:
        """Parameters of a part -> its symbols, round(y - means): int32, on the CPU.

        Args:
            part: function that selects the part of y.
            scales, means: parameters, shaped as the part, on any device; None is means of zero.
        """
        ...


ContextModel = Callable[[Tensor, Code], Tensor]
"""Predicts y: (h_s(z_hat), code) -> y_hat.

It calls `code` for one part of y after another until each value is coded once. The symbols that
`code` returns may be used to predict later parts. h_s(z_hat) is (1, P, 4h, 4w), float64 on the CPU.
"""


def scales_then_means(parameters: Tensor, code: Code) -> Tensor:
    """A hyperprior without context model: all of y in one part; parameters: scales, then means."""
    scales, means = parameters.chunk(2, dim=1)
    return (code(whole, scales, means) + means).float()


def scales_alone(parameters: Tensor, code: Code) -> Tensor:
    """A hyperprior without context model and with zero means: all of y in one part."""
    return code(whole, parameters).float()


def whole(y: Tensor) -> Tensor:
    """The part that is all of y."""
    return y


class LatentCoder:
    """Codes y and z of one image, with tables that are built from a hyperprior's weights.

    The hyper-synthesis of a large image is computed in tiles, with bit-identical results.

    This is not a module: its tables are derived from the weights, stay on the CPU and are not
    saved.

    Args:
        prior: factorized prior of z.
        conditional: distribution of y; a table is built for each scale.
        hyper_synthesis: h_s, z_hat (1, C', h, w) -> parameters (1, P, 4h, 4w), in exact arithmetic
            so that results are the same everywhere (`diffcodec.coding.integer_convolutions`).
        channels: number of channels C of y.
        scales: scales of the tables, (n,), increasing.
        borders: borders between the scales, (n - 1,), float64. A value of y is coded with the first
            scale whose border is not below its own scale.
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
        """The integer tables, which encoder and decoder must share."""
        return {**self._z.named("z"), **self._y.named("y")}

    def encode(self, y: Tensor, z: Tensor, context_model: ContextModel) -> list[bytes]:
        """Latents of one image -> sections for z and y.

        Args:
            y, z: unquantized latents (1, C, 4h, 4w) and (1, C', h, w), on any device.
            context_model: context model of y; its returned y_hat is not used.

        Raises:
            ValueError: a latent is not finite or beyond +-2^26, which no trained network produces.
        """
        z_symbols = _round_(z.cpu() - self._medians)
        writer = _Writer(y.cpu(), self._y, self._borders)
        context_model(self._parameters(z_symbols), writer)
        z_section = rans_encode(z_symbols, _channel_indexes(z_symbols.shape), self._z)
        return [z_section, writer.section()]

    def decode(
        self, sections: list[bytes], height: int, width: int, context_model: ContextModel
    ) -> Tensor:
        """Sections -> y_hat (1, C, 4 height, 4 width), the result of the context model.

        Args:
            sections: sections for z and y.
            height, width: size of z.
            context_model: the encoder's context model.

        Raises:
            BitstreamError: `encode` does not write these sections for an image of that size.
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
    """The `Code` of an encoder: collects symbols and the indices of their tables."""

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
        """The encoded symbols of all parts."""
        return rans_encode(_joined(self._symbols), _joined(self._indexes), self._tables)


class _Reader:
    """The `Code` of a decoder: reads the symbols that a `_Writer` collected."""

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
        """Raise if an encoder would not write this data for the symbols read."""
        symbols, indexes = _joined(self._symbols), _joined(self._indexes)
        _check_section("y", self._data, symbols, indexes, self._tables)


def _round_(values: Tensor) -> Tensor:
    """Round in place, to save memory for a hundred million values, and return int32."""
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
    # The range decoder decodes any bytes. Accept only those that the encoder writes.
    try:
        written = rans_encode(symbols, indexes, tables)
    except ValueError as error:
        raise BitstreamError(f"section {name} contains a symbol that cannot be encoded") from error
    if written != data:
        raise BitstreamError(f"section {name} is truncated, corrupted or from another image size")


def scale_table() -> list[float]:
    """CompressAI's scales, a geometric sequence, computed with `math.exp`."""
    from compressai.models.base import SCALES_LEVELS, SCALES_MAX, SCALES_MIN

    low, high = math.log(SCALES_MIN), math.log(SCALES_MAX)
    steps = SCALES_LEVELS - 1
    return [math.exp(low + i * (high - low) / steps) for i in range(SCALES_LEVELS)]
