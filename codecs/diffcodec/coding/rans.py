"""Integer symbols <-> bytes by CompressAI's range coder, with the same tables on every machine."""

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
    """Cumulative distributions of symbols, as CompressAI's range coder takes them.

    Attributes:
        cdfs: of each distribution, in units of 2^-16, (n, L) int32; rows end in zeros.
        lengths: entries of each row, (n,) int32. The last one is for symbols outside the table.
        offsets: smallest symbol of each table, (n,) int32.
    """

    cdfs: Tensor
    lengths: Tensor
    offsets: Tensor

    @cached_property
    def lists(self) -> tuple[list[list[int]], list[int], list[int]]:
        """Rows without their zeros, lengths and offsets: the coder copies all it is given."""
        lengths = self.lengths.tolist()
        rows = [row[:n] for row, n in zip(self.cdfs.tolist(), lengths, strict=True)]
        return rows, lengths, self.offsets.tolist()

    def named(self, prefix: str) -> dict[str, Tensor]:
        """The tensors by CompressAI's names."""
        names = ("_quantized_cdf", "_cdf_length", "_offset")
        tensors = (self.cdfs, self.lengths, self.offsets)
        return {f"{prefix}.{name}": t for name, t in zip(names, tensors, strict=True)}


def rans_encode(symbols: Tensor, indexes: Tensor, tables: Tables) -> bytes:
    """Code integer symbols, each with one of several distributions.

    Args:
        symbols: integers of any shape.
        indexes: of the same shape: which of the distributions each symbol has.
        tables: the distributions.

    Raises:
        ValueError: a symbol is too large.
    """
    if symbols.numel() == 0:
        return b""  # CompressAI's coder crashes on no symbols
    check_symbols(symbols)
    from compressai.ans import BufferedRansEncoder

    encoder: Any = BufferedRansEncoder()
    for part, own in zip(_parts(symbols), _parts(indexes), strict=True):
        encoder.encode_with_indexes(part.numpy().tolist(), own.numpy().tolist(), *tables.lists)
    encoded: bytes = encoder.flush()
    return encoded


def check_symbols(symbols: Tensor) -> None:
    """Refuse symbols that CompressAI's encoder would never finish: beyond 28 bits it hangs.

    Args:
        symbols: integers of any shape and type, or what should be integers.

    Raises:
        ValueError: one is not within +-2^26, or not a number.
    """
    if symbols.numel() == 0:
        return
    low, high = (value.item() for value in symbols.aminmax())
    if not (low >= -MAX_SYMBOL and high <= MAX_SYMBOL):
        raise ValueError(
            f"the latents reach from {low:.0f} to {high:.0f} quantization steps, and at most "
            f"{MAX_SYMBOL} can be coded: the weights are not finite, or the model has diverged"
        )


def rans_decode(data: bytes, indexes: Tensor, tables: Tables) -> Tensor:
    """Inverse of `rans_encode`: int32 symbols of the shape of `indexes`."""
    return RansReader(data, indexes.numel(), tables).read(indexes)


class RansReader:
    """Decodes what `rans_encode` wrote part by part, and never reads beyond the data.

    It takes any bytes for symbols. Whether they are what an encoder writes tells only coding the
    symbols again.

    Args:
        data: of the encoder.
        num_symbols: how many will be read at most.
        tables: of the encoder.

    Raises:
        BitstreamError: the data is longer than so many symbols can be.
    """

    def __init__(self, data: bytes, num_symbols: int, tables: Tables) -> None:
        from compressai.ans import RansDecoder

        self._decoder: Any = RansDecoder()
        self._decoder.set_stream(guard_rans(data, num_symbols))
        self._tables = tables

    def read(self, indexes: Tensor) -> Tensor:
        """The next symbols, int32 of the shape of `indexes`: which distribution each has."""
        if indexes.numel() == 0:
            return torch.zeros(indexes.shape, dtype=torch.int32)
        cdfs, lengths, offsets = self._tables.lists
        symbols = []
        for part in _parts(indexes):
            own = part.numpy().tolist()
            if len(own) < len(self._tables.cdfs[0]):
                # The coder copies its tables at each call: of few symbols those that they need.
                used = {index: place for place, index in enumerate(set(own))}
                tables = tuple([values[i] for i in used] for values in (cdfs, lengths, offsets))
                found = self._decoder.decode_stream([used[i] for i in own], *tables)
            else:
                found = self._decoder.decode_stream(own, cdfs, lengths, offsets)
            symbols.append(torch.from_numpy(np.fromiter(found, np.int32, len(found))))
        return torch.cat(symbols).reshape(indexes.shape)


def _parts(values: Tensor) -> Sequence[Tensor]:
    """Integers in their order, in parts: as Python's they take eight times the memory."""
    return values.detach().cpu().reshape(-1).int().split(_SYMBOLS_AT_ONCE)


def guard_rans(data: bytes, num_symbols: int) -> bytes:
    """Append zeros, so that the decoder cannot read past the end of any stream.

    CompressAI's decoder checks no bounds. Every symbol takes up to a word of 32 bits, and one that
    its table does not hold two more in the mean. Such a symbol is written as a number of digits of
    4 bits, then these digits. The number is a sum of digits that ends with the first one below 15:
    each half byte of a hostile stream can ask for 15 digits. The zeros ask for none, but for the
    few that the 64 bits of the decoder's state still hold at the stream's end.

    Args:
        data: a stream, of whoever wrote it.
        num_symbols: how many are read from it at most.

    Raises:
        BitstreamError: it is longer than so many symbols can be.
    """
    longest = 8 * num_symbols + 64  # of a symbol 16 bits, the number of its digits, and 8 of them
    if len(data) > longest:
        raise BitstreamError(f"{num_symbols} symbols take {longest} bytes at most, got {len(data)}")
    return data + bytes(16 * len(data) + 8 * num_symbols + 1024)


def factorized_tables(prior: "EntropyBottleneck") -> Tables:
    """The tables of a factorized prior, built in float64.

    Built in float32, processors with other vector units make other tables: one entry of 16 bits in
    a thousand differs, and each would refuse the streams of the other.

    Args:
        prior: with its quantiles, on any device. It stays as it is.
    """
    exact = copy.deepcopy(prior).cpu().double()
    with torch.no_grad():
        exact.update(force=True)
    return Tables(exact.quantized_cdf, exact.cdf_length, exact.offset)


@torch.no_grad()
def conditional_tables(conditional: "GaussianConditional", scales: Tensor) -> Tables:
    """The tables of a conditional distribution, built in float64 as `factorized_tables` are.

    CompressAI's own `update` rounds to float32 whatever the model's type is.

    Args:
        conditional: what distribution it is. It stays as it is.
        scales: a table is built for each, (n,).
    """
    exact: Any = copy.deepcopy(conditional).cpu().double()
    scales = scales.cpu().double()[:, None]
    # The largest symbol of each scale's table: beyond lies a share of `tail_mass`.
    centers = (scales * -exact._standardized_quantile(exact.tail_mass / 2)).ceil().int()
    size = 2 * int(centers.max()) + 1
    distance = (torch.arange(size) - centers).abs()
    below = exact._standardized_cumulative((-0.5 - distance) / scales)
    pmf = exact._standardized_cumulative((0.5 - distance) / scales) - below
    lengths = (2 * centers + 1).flatten()
    cdfs = exact._pmf_to_cdf(pmf, 2 * below[:, :1], lengths, size)
    return Tables(cdfs, lengths + 2, -centers.flatten())
