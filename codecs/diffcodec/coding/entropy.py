"""Entropy coding of uniform indices, of symbols with individual distributions, and of text."""

import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffcodec.coding.bitstream import BitstreamError
from diffcodec.coding.rans import guard_rans

MAX_TEXT_BYTES = 1 << 16


def indices_num_bytes(count: int, num_codes: int) -> int:
    """The exact number of bytes of `count` uniform indices, ceil(count * log2(num_codes) / 8)."""
    return ((num_codes**count - 1).bit_length() + 7) // 8


def encode_indices(indices: Sequence[int], num_codes: int) -> bytes:
    """Code uniform indices with log2(num_codes) bits each; the total is rounded up to a byte.

    The indices are the digits of one large number in base `num_codes`, which need not be a power of
    two: with 8196 codes, an index costs 13.0007 bits instead of 14 (PerCo, Table 2).

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
    # Merging neighbors pairwise is subquadratic, because Python's multiplication is.
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
        BitstreamError: `data` does not contain `count` indices below `num_codes`.
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
    if base & (base - 1) == 0:  # Python does not optimize division by a power of two
        return value & (base - 1), value >> (base.bit_length() - 1)
    high, low = divmod(value, base)
    return low, high


FREQUENCY_BITS = 16  # of the range coder
MAX_FREQUENCIES = (1 << FREQUENCY_BITS) - 1  # sum of the frequencies of a distribution
# Frequencies of padding symbols: an alphabet of one symbol, which costs almost no bits.
FILLING = torch.full((4, 1), MAX_FREQUENCIES)


class FrequencyEncoder:
    """Codes symbols with one distribution per symbol, using CompressAI's range coder."""

    def __init__(self) -> None:
        from compressai.ans import BufferedRansEncoder

        self._encoder: Any = BufferedRansEncoder()
        self._num_symbols = 0

    def write(self, symbols: Tensor, frequencies: Tensor) -> None:
        """Append symbols.

        Args:
            symbols: integers in [0, V), (n,).
            frequencies: distribution of each symbol, (n, V) integers of at least 1; each row sums
                to `MAX_FREQUENCIES`.
        """
        # The encoder only needs the bounds of the symbol's interval. In a table of the two
        # intervals [0, begin) and [begin, end), the symbol is the second one.
        end = _ends(frequencies).gather(1, symbols[:, None])
        begin = end - frequencies.gather(1, symbols[:, None])
        if len(symbols):
            tables = _tables_of(torch.cat([begin, end], dim=1))
            self._encoder.encode_with_indexes([1] * len(symbols), *tables)
        self._num_symbols += len(symbols)

    def to_bytes(self) -> bytes:
        """The encoded symbols."""
        # CompressAI's coder allocates one word per symbol but writes two more at the end. A few
        # padding symbols, which are never read, provide that space.
        if self._num_symbols < len(FILLING):
            self.write(torch.zeros(len(FILLING), dtype=torch.int64), FILLING)
        data: bytes = self._encoder.flush()
        return data


class FrequencyDecoder:
    """Inverse of `FrequencyEncoder`, which never reads beyond the data.

    It decodes any bytes to some symbols. To check that an encoder wrote the bytes, encode the
    symbols again and compare.

    Args:
        data: the encoder's bytes.
        num_symbols: maximum number of symbols that will be read.
    """

    def __init__(self, data: bytes, num_symbols: int) -> None:
        from compressai.ans import RansDecoder

        self._decoder: Any = RansDecoder()
        self._decoder.set_stream(guard_rans(data, num_symbols))

    def read(self, frequencies: Tensor) -> Tensor:
        """Read the next symbols, (n,) int64.

        Args:
            frequencies: the encoder's distributions, (n, V).

        Raises:
            BitstreamError: a symbol is not in [0, V).
        """
        count, num_symbols = frequencies.shape
        if not count:
            return torch.zeros(0, dtype=torch.int64)
        found = self._decoder.decode_stream(*_tables_of(_ends(frequencies)))
        if not (min(found) >= 0 and max(found) < num_symbols):
            raise BitstreamError(f"a symbol is outside [0, {num_symbols})")
        return torch.tensor(found)


def _ends(frequencies: Tensor) -> Tensor:
    """The ends of the symbols' intervals, (n, V)."""
    ends = frequencies.cumsum(1)
    assert bool((ends[:, -1] == MAX_FREQUENCIES).all())
    return ends


def _tables_of(ends: Tensor) -> tuple[list[int], list[list[int]], list[int], list[int]]:
    """The coder's arguments for one table per symbol: indexes, tables, sizes and offsets.

    Args:
        ends: ends of the intervals, (n, V).
    """
    cdfs = F.pad(ends, (1, 1))
    cdfs[:, -1] = 1 << FREQUENCY_BITS  # the last entry is for symbols outside the table
    count, size = cdfs.shape
    return list(range(count)), cdfs.tolist(), [size] * count, [0] * count


def encode_text(text: str) -> bytes:
    """Compress UTF-8 text with zlib at level 9, as PerCo does for captions (Sec. 3.3).

    Raises:
        ValueError: the text is longer than 64 KiB, which no decoder accepts.
    """
    return zlib.compress(text_bytes(text), 9)


def decode_text(data: bytes) -> str:
    """Inverse of `encode_text`, in bounded memory.

    Raises:
        BitstreamError: the data is not one complete zlib stream of at most 64 KiB of UTF-8.
    """
    return inflate_text(zlib.decompressobj(), data)


def text_bytes(text: str) -> bytes:
    """Encode text as UTF-8.

    Raises:
        ValueError: the result is longer than 64 KiB.
    """
    raw = text.encode()
    if len(raw) > MAX_TEXT_BYTES:
        raise ValueError(f"text of {len(raw)} bytes is over {MAX_TEXT_BYTES}")
    return raw


def inflate_text(inflater: "zlib._Decompress", data: bytes) -> str:
    """Inflate one complete stream of UTF-8 with a new `zlib.decompressobj`, in bounded memory.

    Raises:
        BitstreamError: the stream is incomplete or followed by other bytes, or the text is longer
            than 64 KiB or not UTF-8.
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
