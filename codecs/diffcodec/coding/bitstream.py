"""The bitstream container of all codecs.

    offset  bytes  field
    0       1      0xD0 | format version
    1       2      first two bytes of the fingerprint of codec and weights
    3       1-5    height, LEB128 varint
            1-5    width, LEB128 varint
            1-5 *  length of every section but the last, LEB128 varint
            ...    all sections; the last one ends at the checksum
    end-4   4      CRC-32 of the full fingerprint followed by everything above, big-endian

For a 512x512 image with one section, header and checksum take 11 bytes. The checksum is seeded with
the 32-byte fingerprint, of which the stream contains two bytes. If those differ, the error message
names another codec or other weights as the cause. The checksum rejects foreign streams in which
they are equal by chance.

A progressive stream may be cut anywhere, so it has no field at its end:

    offset  bytes  field
    0       1      0xD0 | progressive version
    1       2      first two bytes of the fingerprint of codec and weights
    3       1-5    height, LEB128 varint
            1-5    width, LEB128 varint
            2      CRC-16 of the full fingerprint followed by everything above, big-endian
            ...    the payload; after every 63 bytes of it, a CRC-8 of the payload up to there

The header of a 512x768 image takes 9 bytes, and the CRC-8 values add 1.6% to the payload. Up to 62
bytes after the last CRC-8 of a stream are not checked.
"""

import binascii
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

FORMAT_VERSION = 1
PROGRESSIVE_VERSION = 2
BLOCK_BYTES = 63
FINGERPRINT_BYTES = 32
MAX_SIDE = 1 << 16
MAX_PIXELS = 1 << 26

_MAGIC = 0xD0
_SENT_FINGERPRINT_BYTES = 2
_CRC_BYTES = 4
_HEADER_CRC_BYTES = 2
_CRC8_POLYNOMIAL = 0x07
_MAX_VARINT_BYTES = 5


class BitstreamError(ValueError):
    """The bytes are not a stream that this codec, with these weights, wrote."""


@dataclass(frozen=True)
class Contents:
    """The contents of a stream: image size in pixels and the codec's sections.

    A progressive stream has one section, which contains the received part of the payload.
    """

    height: int
    width: int
    sections: tuple[bytes, ...]

    @property
    def num_payload_bytes(self) -> int:
        """Length of the stream in bytes without header and checksums."""
        return sum(map(len, self.sections))


def pack(sections: Sequence[bytes], *, height: int, width: int, fingerprint: bytes) -> bytes:
    """Write the stream of one image.

    Args:
        sections: payload of the codec: at least one byte string, each possibly empty.
        height, width: size of the image in pixels, before any padding.
        fingerprint: 32 bytes that identify codec and weights.

    Raises:
        ValueError: no decoder accepts the image size, or there is no section.
    """
    problem = size_problem(height, width)
    if problem:
        raise ValueError(problem)
    if not sections:
        raise ValueError("a stream needs at least one section")
    body = _start(FORMAT_VERSION, fingerprint, height, width, *map(len, sections[:-1]))
    body += b"".join(sections)
    return bytes(body) + _checksum(body, fingerprint)


def pack_progressive(payload: bytes, *, height: int, width: int, fingerprint: bytes) -> bytes:
    """Write the progressive stream of one image, which may be cut anywhere.

    If one payload is a prefix of another, so is its stream.

    Args:
        payload: payload of which every prefix must be decodable.
        height, width, fingerprint: see `pack`.

    Raises:
        ValueError: no decoder accepts the image size.
    """
    problem = size_problem(height, width)
    if problem:
        raise ValueError(problem)
    body = _start(PROGRESSIVE_VERSION, fingerprint, height, width)
    body += _header_checksum(body, fingerprint)
    crc = 0
    for first in range(0, len(payload), BLOCK_BYTES):
        block = payload[first : first + BLOCK_BYTES]
        body += block
        crc = _crc8(block, crc)
        if len(block) == BLOCK_BYTES:
            body.append(crc)
    return bytes(body)


def fitting_payload(num_bytes: int, *, height: int, width: int) -> int:
    """The length of the longest payload whose progressive stream fits into `num_bytes`, or 0."""
    start = _start(PROGRESSIVE_VERSION, bytes(FINGERPRINT_BYTES), height, width)
    left = num_bytes - len(start) - _HEADER_CRC_BYTES
    blocks, rest = divmod(max(0, left), BLOCK_BYTES + 1)
    return blocks * BLOCK_BYTES + min(rest, BLOCK_BYTES - 1)  # a complete block needs its CRC-8


def unpack(stream: bytes, *, num_sections: int, fingerprint: bytes) -> Contents:
    """Read one stream and check it.

    Args:
        stream: result of `pack`.
        num_sections: number of sections that this codec writes.
        fingerprint: 32 bytes that identify the decoding codec and its weights.

    Raises:
        BitstreamError: the stream is truncated or corrupted, belongs to another format version,
            another codec or other weights, or has an impossible image size. No memory is allocated
            for the image before these checks.
    """
    _check_start(stream, FORMAT_VERSION, fingerprint)
    body, checksum = stream[:-_CRC_BYTES], stream[-_CRC_BYTES:]
    if checksum != _checksum(body, fingerprint):
        raise BitstreamError(
            "checksum mismatch: the stream is truncated, corrupted or from other weights"
        )
    # With a valid checksum, only a hostile stream can be wrong. All fields are checked anyway.
    height, width, position = _read_size(body)
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


def unpack_progressive(stream: bytes, *, fingerprint: bytes) -> Contents:
    """Read a progressive stream, or a prefix of one, and check it.

    Args:
        stream: result of `pack_progressive`, or a prefix of it.
        fingerprint: see `unpack`.

    Raises:
        BitstreamError: the header is incomplete, a checksum does not match, or a reason in `unpack`
            applies.
    """
    _check_start(stream, PROGRESSIVE_VERSION, fingerprint)
    height, width, position = _read_size(stream)
    sent = stream[position : position + _HEADER_CRC_BYTES]
    if len(sent) < _HEADER_CRC_BYTES:
        raise BitstreamError(f"truncated stream: {len(stream)} bytes do not hold a header")
    if sent != _header_checksum(stream[:position], fingerprint):
        raise BitstreamError("checksum mismatch: the header is corrupted or from other weights")
    position += _HEADER_CRC_BYTES
    blocks, crc = [], 0
    for first in range(position, len(stream), BLOCK_BYTES + 1):
        block = stream[first : first + BLOCK_BYTES]
        check = stream[first + BLOCK_BYTES : first + BLOCK_BYTES + 1]
        crc = _crc8(block, crc)
        if check and check[0] != crc:
            raise BitstreamError(
                f"checksum mismatch: the stream is corrupted after its first {first} bytes, "
                "which can still be decoded"
            )
        blocks.append(block)
    return Contents(height, width, (b"".join(blocks),))


def size_problem(height: int, width: int) -> str | None:
    """The reason why an image size in pixels is not supported, or None."""
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        return f"image size {height}x{width} is outside 1 to {MAX_SIDE} pixels a side"
    if height * width > MAX_PIXELS:
        return f"image size {height}x{width} is over {MAX_PIXELS} pixels"
    return None


def derive_seed(parts: Sequence[bytes]) -> int:
    """A seed for `torch.Generator`, computed from these bytes."""
    # 63 bits: torch.Generator takes a signed 64-bit seed.
    digest = hashlib.sha256(b"".join(parts)).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def seed_of_sample(seed: int, sample: int) -> int:
    """The seed of reconstruction number `sample` of a stream; number 0 uses the stream's seed."""
    return seed if sample == 0 else derive_seed([f"{seed} {sample}".encode()])


def _start(version: int, fingerprint: bytes, *numbers: int) -> bytearray:
    """The start of a stream: version, two bytes of the fingerprint, and varints."""
    _check_fingerprint(fingerprint)
    body = bytearray([_MAGIC | version])
    body += fingerprint[:_SENT_FINGERPRINT_BYTES]
    for number in numbers:
        body += _varint(number)
    return body


def _check_start(stream: bytes, version: int, fingerprint: bytes) -> None:
    """Reject a stream that is too short for a header or has another version or fingerprint."""
    _check_fingerprint(fingerprint)
    crc_bytes = _HEADER_CRC_BYTES if version == PROGRESSIVE_VERSION else _CRC_BYTES
    if len(stream) < 1 + _SENT_FINGERPRINT_BYTES + 2 + crc_bytes:
        raise BitstreamError(f"truncated stream: {len(stream)} bytes do not hold a header")
    if stream[0] & 0xF0 != _MAGIC:
        raise BitstreamError(f"not a diffcodec stream: first byte 0x{stream[0]:02x}")
    if stream[0] & 0x0F != version:
        raise BitstreamError(
            f"stream has format version {stream[0] & 0x0F}, this decoder reads {version}"
        )
    sent = stream[1 : 1 + _SENT_FINGERPRINT_BYTES]
    if sent != fingerprint[:_SENT_FINGERPRINT_BYTES]:
        raise BitstreamError(
            f"stream was written by another codec or other weights: fingerprint {sent.hex()}, "
            f"this codec has {fingerprint[:_SENT_FINGERPRINT_BYTES].hex()}"
        )


def _read_size(body: bytes) -> tuple[int, int, int]:
    """Height and width in pixels, and the offset of the next field."""
    height, position = _read_varint(body, 1 + _SENT_FINGERPRINT_BYTES)
    width, position = _read_varint(body, position)
    problem = size_problem(height, width)
    if problem:
        raise BitstreamError(problem)
    return height, width, position


def _check_fingerprint(fingerprint: bytes) -> None:
    if len(fingerprint) != FINGERPRINT_BYTES:
        raise ValueError(f"a fingerprint has {FINGERPRINT_BYTES} bytes, got {len(fingerprint)}")


def _checksum(body: bytes | bytearray, fingerprint: bytes) -> bytes:
    return zlib.crc32(body, zlib.crc32(fingerprint)).to_bytes(_CRC_BYTES, "big")


def _header_checksum(header: bytes | bytearray, fingerprint: bytes) -> bytes:
    crc = binascii.crc_hqx(header, binascii.crc_hqx(fingerprint, 0))
    return crc.to_bytes(_HEADER_CRC_BYTES, "big")


def _crc8(data: bytes, crc: int) -> int:
    """CRC-8 as in ATM (x^8 + x^2 + x + 1); `crc` is that of the preceding data, 0 at the start."""
    for byte in data:
        crc = _CRC8_TABLE[crc ^ byte]
    return crc


def _crc8_table() -> bytes:
    table = bytearray()
    for crc in range(256):
        for _ in range(8):
            crc = crc << 1 ^ (_CRC8_POLYNOMIAL | 0x100 if crc & 0x80 else 0)
        table.append(crc)
    return bytes(table)


_CRC8_TABLE = _crc8_table()


def _varint(number: int) -> bytes:
    """LEB128: seven bits per byte, lowest first; the high bit is set if more bytes follow."""
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
