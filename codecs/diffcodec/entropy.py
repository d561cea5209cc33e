"""Symbols <-> bytes: uniform indices, CompressAI's range coder, text."""

import copy
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diffcodec.bitstream import BitstreamError

if TYPE_CHECKING:
    from compressai.entropy_models import EntropyBottleneck, GaussianConditional

MAX_TEXT_BYTES = 1 << 16
MAX_SYMBOL = 1 << 26
_SYMBOLS_AT_ONCE = 1 << 20


def indices_num_bytes(count: int, num_codes: int) -> int:
    """ceil(count * log2(num_codes) / 8): bytes of `count` uniform indices, exactly."""
    return ((num_codes**count - 1).bit_length() + 7) // 8


def encode_indices(indices: Sequence[int], num_codes: int) -> bytes:
    """Uniform indices at log2(num_codes) bits each, rounded up once to a whole byte.

    The indices are the digits of one large number in base `num_codes`, which need not be a power
    of two: 8196 codes cost 13.0007 bits each, not 14 (PerCo, Table 2).

    Args:
        indices: integers in [0, num_codes).
        num_codes: size of the codebook, at least 1.

    Raises:
        ValueError: an index or the size of the codebook is out of range.
    """
    if num_codes < 1:
        raise ValueError(f"a codebook has at least one code, got {num_codes}")
    digits = [int(i) for i in indices]
    if digits and not (min(digits) >= 0 and max(digits) < num_codes):
        raise ValueError(f"indices must be in [0, {num_codes}), got {min(digits)}, {max(digits)}")
    size = indices_num_bytes(len(digits), num_codes)
    # Pairing neighbours level by level keeps this subquadratic: Python multiplies fast.
    base = num_codes
    while len(digits) > 1:
        if len(digits) % 2:
            digits.append(0)
        digits = [low + high * base for low, high in zip(digits[::2], digits[1::2], strict=True)]
        base *= base
    return (digits[0] if digits else 0).to_bytes(size, "big")


def decode_indices(data: bytes, count: int, num_codes: int) -> list[int]:
    """Inverse of `encode_indices`.

    Raises:
        BitstreamError: `data` is not `count` indices below `num_codes`.
    """
    size = indices_num_bytes(count, num_codes)
    if len(data) != size:
        raise BitstreamError(
            f"{count} indices of {num_codes} codes take {size} bytes, got {len(data)}"
        )
    number = int.from_bytes(data, "big")
    if number >= num_codes**count:
        raise BitstreamError(f"the bytes hold an index outside [0, {num_codes})")
    digits = [number]
    for level in reversed(range((count - 1).bit_length() if count else 0)):
        base = num_codes ** (1 << level)
        digits = [part for value in digits for part in _low_high(value, base)]
    return digits[:count]


def _low_high(value: int, base: int) -> tuple[int, int]:
    if base & (base - 1) == 0:  # Python has no fast division by a large power of two
        return value & (base - 1), value >> (base.bit_length() - 1)
    high, low = divmod(value, base)
    return low, high


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


FREQUENCY_BITS = 16  # of the range coder
MAX_FREQUENCIES = (1 << FREQUENCY_BITS) - 1  # what the frequencies of a symbol sum to
# Of symbols that say nothing: one alone has all the frequencies there are.
FILLING = torch.full((4, 1), MAX_FREQUENCIES)


class FrequencyEncoder:
    """Codes symbols each of which has a distribution of its own, with CompressAI's range coder."""

    def __init__(self) -> None:
        from compressai.ans import BufferedRansEncoder

        self._encoder: Any = BufferedRansEncoder()
        self._num_symbols = 0

    def write(self, symbols: Tensor, frequencies: Tensor) -> None:
        """Append symbols.

        Args:
            symbols: (n,) integers in [0, V).
            frequencies: of all V in the place of each, (n, V) integers, each at least 1; a row sums
                to `MAX_FREQUENCIES`.
        """
        # The encoder needs no more of a distribution than where the symbol begins and ends: it is
        # the second of two.
        end = _ends(frequencies).gather(1, symbols[:, None])
        begin = end - frequencies.gather(1, symbols[:, None])
        if len(symbols):
            tables = _tables_of(torch.cat([begin, end], dim=1))
            self._encoder.encode_with_indexes([1] * len(symbols), *tables)
        self._num_symbols += len(symbols)

    def to_bytes(self) -> bytes:
        """All of them."""
        # CompressAI's coder has room for a word per symbol and writes two after the last one:
        # a few symbols of no information, which nobody reads, make the room.
        if self._num_symbols < len(FILLING):
            self.write(torch.zeros(len(FILLING), dtype=torch.int64), FILLING)
        data: bytes = self._encoder.flush()
        return data


class FrequencyDecoder:
    """Inverse of `FrequencyEncoder`, which never reads beyond the data.

    It takes any bytes for symbols. Whether they are what an encoder writes tells only coding the
    symbols again.

    Args:
        data: of the encoder.
        num_symbols: how many will be read at most.
    """

    def __init__(self, data: bytes, num_symbols: int) -> None:
        from compressai.ans import RansDecoder

        self._decoder: Any = RansDecoder()
        self._decoder.set_stream(guard_rans(data, num_symbols))

    def read(self, frequencies: Tensor) -> Tensor:
        """The next symbols, (n,) int64.

        Args:
            frequencies: (n, V), of the encoder.

        Raises:
            BitstreamError: a symbol is not in [0, V).
        """
        count, num_symbols = frequencies.shape
        if not count:
            return torch.zeros(0, dtype=torch.int64)
        found = self._decoder.decode_stream(*_tables_of(_ends(frequencies)))
        if not (min(found) >= 0 and max(found) < num_symbols):
            raise BitstreamError(f"a symbol is not one of {num_symbols}")
        return torch.tensor(found)


def _ends(frequencies: Tensor) -> Tensor:
    """Where each symbol's interval ends, (n, V)."""
    ends = frequencies.cumsum(1)
    assert bool((ends[:, -1] == MAX_FREQUENCIES).all())
    return ends


def _tables_of(ends: Tensor) -> tuple[list[int], list[list[int]], list[int], list[int]]:
    """What the coder takes for one table each: indexes, tables, their sizes and offsets.

    Args:
        ends: of the intervals, (n, V).
    """
    cdfs = F.pad(ends, (1, 1))
    cdfs[:, -1] = 1 << FREQUENCY_BITS  # of the entry for what a table does not hold
    count, size = cdfs.shape
    return list(range(count)), cdfs.tolist(), [size] * count, [0] * count


def encode_text(text: str) -> bytes:
    """Text -> zlib at level 9 over UTF-8, as PerCo codes its captions (Sec. 3.3).

    Raises:
        ValueError: over 64 KiB of text, which no decoder accepts.
    """
    return zlib.compress(text_bytes(text), 9)


def decode_text(data: bytes) -> str:
    """Inverse of `encode_text`, in bounded memory.

    Raises:
        BitstreamError: not a complete zlib stream of at most 64 KiB of UTF-8.
    """
    return inflate_text(zlib.decompressobj(), data)


def text_bytes(text: str) -> bytes:
    """Text as UTF-8, at most 64 KiB.

    Raises:
        ValueError: it is longer.
    """
    raw = text.encode()
    if len(raw) > MAX_TEXT_BYTES:
        raise ValueError(f"text of {len(raw)} bytes is over {MAX_TEXT_BYTES}")
    return raw


def inflate_text(inflater: "zlib._Decompress", data: bytes) -> str:
    """What a fresh `zlib.decompressobj` makes of one complete stream of UTF-8, in bounded memory.

    Raises:
        BitstreamError: it is incomplete, followed by other bytes, over 64 KiB, or no UTF-8.
    """
    try:
        raw = inflater.decompress(data, MAX_TEXT_BYTES + 1)
    except zlib.error as error:
        raise BitstreamError(f"the text cannot be inflated: {error}") from error
    if len(raw) > MAX_TEXT_BYTES:
        raise BitstreamError(f"the text is over {MAX_TEXT_BYTES} bytes")
    if not inflater.eof or inflater.unused_data:
        raise BitstreamError("the text is truncated or followed by other bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise BitstreamError(f"the text is not UTF-8: {error}") from error
