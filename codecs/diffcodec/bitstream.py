"""The container that every codec's bytes travel in.

    offset  bytes  field
    0       1      0xD0 | format version
    1       2      first two bytes of the fingerprint of codec and weights
    3       1-5    height, LEB128 varint
            1-5    width, LEB128 varint
            1-5 *  length of every section but the last, LEB128 varint
            ...    sections, one after the other; the last one runs to the checksum
    end-4   4      CRC-32 of the full fingerprint followed by everything above, big-endian

A 512x512 image with one section costs 11 bytes beside its payload. The checksum is seeded with
the 32-byte fingerprint, of which only two bytes are sent: they give the right error message, the
checksum refuses foreign streams that share them.
"""

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

FORMAT_VERSION = 1
FINGERPRINT_BYTES = 32
MAX_SIDE = 1 << 16
MAX_PIXELS = 1 << 26

_MAGIC = 0xD0
_SENT_FINGERPRINT_BYTES = 2
_CRC_BYTES = 4
_MAX_VARINT_BYTES = 5


class BitstreamError(ValueError):
    """The bytes are not a stream that this codec, with these weights, wrote."""


@dataclass(frozen=True)
class Contents:
    """The content of a stream: image size in pixels and the codec's own sections."""

    height: int
    width: int
    sections: tuple[bytes, ...]

    @property
    def num_payload_bytes(self) -> int:
        """Bytes of the sections: the stream without its header and checksum."""
        return sum(map(len, self.sections))


def pack(sections: Sequence[bytes], *, height: int, width: int, fingerprint: bytes) -> bytes:
    """Write the stream of one image.

    Args:
        sections: the codec's payload, at least one byte string, any of them may be empty.
        height, width: size of the image in pixels, before any padding.
        fingerprint: 32 bytes that name codec and weights.

    Raises:
        ValueError: the size is outside what a decoder accepts, or there is no section.
    """
    problem = size_problem(height, width)
    if problem:
        raise ValueError(problem)
    if not sections:
        raise ValueError("a stream needs at least one section")
    _check_fingerprint(fingerprint)
    body = bytearray([_MAGIC | FORMAT_VERSION])
    body += fingerprint[:_SENT_FINGERPRINT_BYTES]
    for number in (height, width, *map(len, sections[:-1])):
        body += _varint(number)
    body += b"".join(sections)
    return bytes(body) + _checksum(body, fingerprint)


def unpack(stream: bytes, *, num_sections: int, fingerprint: bytes) -> Contents:
    """Read one stream and check it.

    Args:
        stream: what `pack` returned.
        num_sections: how many sections this codec writes.
        fingerprint: 32 bytes that name the codec and weights that are to decode it.

    Raises:
        BitstreamError: the stream is truncated, corrupted, of another format version, of another
            codec or other weights, or claims an impossible size. Nothing is allocated before that.
    """
    _check_fingerprint(fingerprint)
    if len(stream) < 1 + _SENT_FINGERPRINT_BYTES + 2 + _CRC_BYTES:
        raise BitstreamError(f"truncated stream: {len(stream)} bytes do not hold a header")
    if stream[0] & 0xF0 != _MAGIC:
        raise BitstreamError(f"not a diffcodec stream: first byte 0x{stream[0]:02x}")
    if stream[0] & 0x0F != FORMAT_VERSION:
        raise BitstreamError(
            f"stream has format version {stream[0] & 0x0F}, this decoder reads {FORMAT_VERSION}"
        )
    sent = stream[1 : 1 + _SENT_FINGERPRINT_BYTES]
    if sent != fingerprint[:_SENT_FINGERPRINT_BYTES]:
        raise BitstreamError(
            f"stream was written by another codec or other weights: fingerprint {sent.hex()}, "
            f"this codec has {fingerprint[:_SENT_FINGERPRINT_BYTES].hex()}"
        )
    body, checksum = stream[:-_CRC_BYTES], stream[-_CRC_BYTES:]
    if checksum != _checksum(body, fingerprint):
        raise BitstreamError(
            "checksum mismatch: the stream is truncated, corrupted or of other weights"
        )
    # Past this line only a hostile writer can be at fault; every claim is checked all the same.
    position = 1 + _SENT_FINGERPRINT_BYTES
    height, position = _read_varint(body, position)
    width, position = _read_varint(body, position)
    problem = size_problem(height, width)
    if problem:
        raise BitstreamError(problem)
    lengths = []
    for _ in range(num_sections - 1):
        length, position = _read_varint(body, position)
        lengths.append(length)
    if sum(lengths) > len(body) - position:
        raise BitstreamError(
            f"sections of {lengths} bytes do not fit into the {len(body) - position} bytes left"
        )
    sections = []
    for length in lengths:
        sections.append(body[position : position + length])
        position += length
    sections.append(body[position:])
    return Contents(height, width, tuple(sections))


def size_problem(height: int, width: int) -> str | None:
    """Say what is wrong with an image size in pixels; None if nothing is."""
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        return f"image size {height}x{width} is outside 1 to {MAX_SIDE} pixels a side"
    if height * width > MAX_PIXELS:
        return f"image size {height}x{width} is over {MAX_PIXELS} pixels"
    return None


def derive_seed(parts: Sequence[bytes]) -> int:
    """A seed of `torch.Generator` that is a function of these bytes."""
    # 63 bits: torch.Generator takes a signed 64-bit seed.
    digest = hashlib.sha256(b"".join(parts)).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _check_fingerprint(fingerprint: bytes) -> None:
    if len(fingerprint) != FINGERPRINT_BYTES:
        raise ValueError(f"a fingerprint has {FINGERPRINT_BYTES} bytes, got {len(fingerprint)}")


def _checksum(body: bytes | bytearray, fingerprint: bytes) -> bytes:
    return zlib.crc32(body, zlib.crc32(fingerprint)).to_bytes(_CRC_BYTES, "big")


def _varint(number: int) -> bytes:
    """LEB128: seven bits a byte, lowest first, the high bit says that more follow."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    number = 0
    for count in range(_MAX_VARINT_BYTES):
        if position >= len(data):
            raise BitstreamError("truncated stream: the header ends in the middle of a number")
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return number, position
    raise BitstreamError(f"a number in the header is longer than {_MAX_VARINT_BYTES} bytes")
