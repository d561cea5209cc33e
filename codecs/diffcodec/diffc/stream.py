"""Prefix codes of chunk indices.

Each index has a code word of whole bits. Any prefix of the bits therefore contains a prefix of the
indices, and decoding needs integer arithmetic only.
"""

import heapq
import math
from abc import ABC, abstractmethod

from diffcodec.coding.bits import BitReader, BitWriter
from diffcodec.coding.bitstream import BitstreamError
from diffcodec.diffc.channel import Channel, Poisson

_WEIGHT_BITS = 16


class IndexCode(ABC):
    """A prefix code of indices."""

    @abstractmethod
    def write(self, index: int, writer: BitWriter) -> None:
        """Append an index."""

    @abstractmethod
    def read(self, reader: BitReader) -> int:
        """Read the next index.

        Raises:
            EndOfBitsError: the bits end within the index.
            BitstreamError: the index is out of range.
        """


class FixedLengthCode(IndexCode):
    """Indices in [0, 2^width), each coded in `width` bits."""

    def __init__(self, width: int) -> None:
        self.width = width

    def write(self, index: int, writer: BitWriter) -> None:
        writer.write(index, self.width)

    def read(self, reader: BitReader) -> int:
        return reader.read(self.width)


class ZipfCode(IndexCode):
    """Indices that follow Zipf's law p(k) ~ (k + 1)^-s, s = 1 + 1 / (KL + log(e + 1) / e).

    The indices of the Poisson functional representation follow this law (Li & El Gamal 2018). The
    octave of k + 1 has a Huffman code for the law's probabilities. Within an octave, all indices
    have equally long codes, which costs 0.03 bits.

    Args:
        log2_size: log2 of the number of indices; they are in [0, 2^log2_size).
        divergence: KL divergence of a chunk in bits.
    """

    def __init__(self, log2_size: int, divergence: float) -> None:
        self.size = 1 << log2_size
        exponent = 1 + 1 / (divergence + math.log(math.e + 1) / math.e)
        # Octave e has the weight 2^(-(s - 1) e), the integral of x^-s over it. The weights are
        # rounded to integers, so that the code does not depend on floating-point rounding.
        weights = [
            max(1, round(2.0 ** (_WEIGHT_BITS - (exponent - 1) * octave)))
            for octave in range(log2_size)
        ]
        weights.append(1)  # the last octave, which has one index
        self._codes = _canonical_codes(_huffman_lengths(weights))
        self._octaves = {code: octave for octave, code in enumerate(self._codes)}

    def write(self, index: int, writer: BitWriter) -> None:
        octave = (index + 1).bit_length() - 1
        writer.write(*self._codes[octave])
        writer.write(index + 1 - (1 << octave), octave)

    def read(self, reader: BitReader) -> int:
        code = width = 0
        while (code, width) not in self._octaves:
            code, width = code << 1 | reader.read(1), width + 1
        octave = self._octaves[code, width]
        index = (1 << octave) + reader.read(octave) - 1
        if index >= self.size:
            raise BitstreamError(f"candidate {index} is outside [0, {self.size})")
        return index


def code_for(channel: Channel, bits: float) -> IndexCode:
    """The code of a channel's indices if a chunk has a KL divergence of `bits`."""
    if isinstance(channel, Poisson):
        return ZipfCode(channel.log2_candidates, bits)
    return FixedLengthCode(channel.num_indices.bit_length() - 1)


def _huffman_lengths(weights: list[int]) -> list[int]:
    heap = [(weight, symbol, [symbol]) for symbol, weight in enumerate(weights)]
    heapq.heapify(heap)
    lengths = [0] * len(weights)
    while len(heap) > 1:
        first, second = heapq.heappop(heap), heapq.heappop(heap)
        for symbol in first[2] + second[2]:
            lengths[symbol] += 1
        # The lowest symbol breaks ties, so that the code is the same everywhere.
        merged = (first[0] + second[0], min(first[1], second[1]), first[2] + second[2])
        heapq.heappush(heap, merged)
    return lengths


def _canonical_codes(lengths: list[int]) -> list[tuple[int, int]]:
    """Lengths in bits of a complete prefix code -> (code word, length) of each symbol."""
    codes = [(0, 0)] * len(lengths)
    code = previous = 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths)):
        code <<= length - previous
        codes[symbol] = (code, length)
        code, previous = code + 1, length
    return codes
