"""Symbols <-> bytes: uniform indices, symbols with a distribution each, text."""

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
        # a few padding symbols, which are never read, make the room.
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
