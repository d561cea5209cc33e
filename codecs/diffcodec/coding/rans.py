"""Entropy coding of integers with CompressAI's rANS coder and machine-independent tables."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from diffcodec.coding.bitstream import BitstreamError

if TYPE_CHECKING:
    from compressai.entropy_models import EntropyBottleneck, GaussianConditional

MAX_SYMBOL = 1 << 26
_SYMBOLS_AT_ONCE = 1 << 20


@dataclass(frozen=True, eq=False)
class Tables:
    """Cumulative distributions of symbols in the format of CompressAI's range coder.

    Attributes:
        cdfs: cumulative distributions in units of 2^-16, (n, L) int32; rows are padded with zeros.
        lengths: number of entries of each row, (n,) int32. The last entry is for symbols outside
            the table.
        offsets: smallest symbol of each table, (n,) int32.
    """

    cdfs: Tensor
    lengths: Tensor
    offsets: Tensor

    @cached_property
    def lists(self) -> tuple[list[list[int]], list[int], list[int]]:
        """Rows without padding, because the coder copies its arguments; lengths and offsets."""
        lengths = self.lengths.tolist()
        rows = [row[:n] for row, n in zip(self.cdfs.tolist(), lengths, strict=True)]
        return rows, lengths, self.offsets.tolist()

    def named(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under CompressAI's names."""
        names = ("_quantized_cdf", "_cdf_length", "_offset")
        tensors = (self.cdfs, self.lengths, self.offsets)
        return {f"{prefix}.{name}": t for name, t in zip(names, tensors, strict=True)}


def rans_encode(symbols: Tensor, indexes: Tensor, tables: Tables) -> bytes:
    """Code integer symbols, each with one of several distributions.

    Args:
        symbols: integers of any shape.
        indexes: index of each symbol's distribution, of the same shape.
        tables: the distributions.

    Raises:
        ValueError: a symbol is too large.
    """
    if symbols.numel() == 0:
        return b""  # CompressAI's coder crashes without symbols
    check_symbols(symbols)
    from compressai.ans import BufferedRansEncoder

    encoder: Any = BufferedRansEncoder()
    for part, own in zip(_parts(symbols), _parts(indexes), strict=True):
        encoder.encode_with_indexes(part.numpy().tolist(), own.numpy().tolist(), *tables.lists)
    encoded: bytes = encoder.flush()
    return encoded


def check_symbols(symbols: Tensor) -> None:
    """Raise on symbols that CompressAI's encoder cannot code: it hangs beyond 28 bits.

    Args:
        symbols: integers of any shape and dtype.

    Raises:
        ValueError: a symbol is outside +-2^26 or NaN.
    """
    if symbols.numel() == 0:
        return
    low, high = (value.item() for value in symbols.aminmax())
    if not (low >= -MAX_SYMBOL and high <= MAX_SYMBOL):
        raise ValueError(
            f"the latents range from {low:.0f} to {high:.0f} quantization steps, beyond the limit "
            f"of {MAX_SYMBOL}: the weights are not finite, or the model has diverged"
        )


def rans_decode(data: bytes, indexes: Tensor, tables: Tables) -> Tensor:
    """Inverse of `rans_encode`: int32 symbols of the shape of `indexes`."""
    return RansReader(data, indexes.numel(), tables).read(indexes)


class RansReader:
    """Decodes the result of `rans_encode` part by part, and never reads beyond the data.

    It decodes any bytes to some symbols. To check that an encoder wrote the bytes, encode the
    symbols again and compare.

    Args:
        data: the encoder's bytes.
        num_symbols: maximum number of symbols that will be read.
        tables: the encoder's tables.

    Raises:
        BitstreamError: the data is longer than `num_symbols` symbols can be.
    """

    def __init__(self, data: bytes, num_symbols: int, tables: Tables) -> None:
        from compressai.ans import RansDecoder

        self._decoder: Any = RansDecoder()
        self._decoder.set_stream(guard_rans(data, num_symbols))
        self._tables = tables

    def read(self, indexes: Tensor) -> Tensor:
        """Read the next symbols, int32, shaped as the indices of their distributions."""
        if indexes.numel() == 0:
            return torch.zeros(indexes.shape, dtype=torch.int32)
        cdfs, lengths, offsets = self._tables.lists
        symbols = []
        for part in _parts(indexes):
            own = part.numpy().tolist()
            if len(own) < len(self._tables.cdfs[0]):
                # The coder copies its tables at each call. For few symbols, pass only used tables.
                used = {index: place for place, index in enumerate(set(own))}
                tables = tuple([values[i] for i in used] for values in (cdfs, lengths, offsets))
                found = self._decoder.decode_stream([used[i] for i in own], *tables)
            else:
                found = self._decoder.decode_stream(own, cdfs, lengths, offsets)
            symbols.append(torch.from_numpy(np.fromiter(found, np.int32, len(found))))
        return torch.cat(symbols).reshape(indexes.shape)


def _parts(values: Tensor) -> Sequence[Tensor]:
    """Flat int32 values in parts, because as Python integers they take eight times the memory."""
    return values.detach().cpu().reshape(-1).int().split(_SYMBOLS_AT_ONCE)


def guard_rans(data: bytes, num_symbols: int) -> bytes:
    """Append zeros, so that the decoder cannot read past the end of any stream.

    CompressAI's decoder does not check bounds. A symbol takes up to one word of 32 bits, and a
    symbol outside its table two more on average. Such a symbol is coded as the number of its 4-bit
    digits, then the digits. The number is itself a sum of 4-bit digits, which ends with the first
    digit below 15. Each half byte of a hostile stream can therefore request 15 digits. The appended
    zeros request none, except for the few in the 64 bits of the decoder's state at the end.

    Args:
        data: an untrusted stream.
        num_symbols: maximum number of symbols that will be read.

    Raises:
        BitstreamError: the stream is longer than `num_symbols` symbols can be.
    """
    longest = 8 * num_symbols + 64  # per symbol 16 bits, the number of its digits, and 8 digits
    if len(data) > longest:
        raise BitstreamError(f"{num_symbols} symbols take {longest} bytes at most, got {len(data)}")
    return data + bytes(16 * len(data) + 8 * num_symbols + 1024)


def factorized_tables(prior: "EntropyBottleneck") -> Tables:
    """The tables of a factorized prior, built in float64.

    In float32, tables depend on the CPU's vector unit: one 16-bit entry in a thousand differs, and
    such machines would reject each other's streams.

    Args:
        prior: factorized prior with its quantiles, on any device; it is not modified.
    """
    exact = copy.deepcopy(prior).cpu().double()
    with torch.no_grad():
        exact.update(force=True)
    return Tables(exact.quantized_cdf, exact.cdf_length, exact.offset)


@torch.no_grad()
def conditional_tables(conditional: "GaussianConditional", scales: Tensor) -> Tables:
    """The tables of a conditional distribution, built in float64 like those of a factorized prior.

    CompressAI's own `update` rounds to float32 for models of any dtype.

    Args:
        conditional: the distribution; it is not modified.
        scales: scale of each table, (n,).
    """
    exact: Any = copy.deepcopy(conditional).cpu().double()
    scales = scales.cpu().double()[:, None]
    # The largest symbol of each scale's table; the tails beyond have the probability `tail_mass`.
    centers = (scales * -exact._standardized_quantile(exact.tail_mass / 2)).ceil().int()
    size = 2 * int(centers.max()) + 1
    distance = (torch.arange(size) - centers).abs()
    below = exact._standardized_cumulative((-0.5 - distance) / scales)
    pmf = exact._standardized_cumulative((0.5 - distance) / scales) - below
    lengths = (2 * centers + 1).flatten()
    cdfs = exact._pmf_to_cdf(pmf, 2 * below[:, :1], lengths, size)
    return Tables(cdfs, lengths + 2, -centers.flatten())
