"""Sections of PerCo's streams: a header byte with the caption, and the codes.

first section   header byte: bit 0: a caption follows; bit 1: codes are present; bits 2 to 7: index
                of the rate. Then the caption, encoded by one of the text coders.
second section  the indices of the codes, see `index_coder`
"""

from collections.abc import Sequence

from diffcodec.coding.bitstream import BitstreamError

MAX_RATES = 64


def join_caption(rate: int, text: bytes | None, *, has_local: bool) -> bytes:
    """Build the first section.

    Args:
        rate: index of the rate.
        text: encoded caption, or None.
        has_local: whether the stream contains codes.

    Raises:
        ValueError: the index does not fit into the header byte.
    """
    if not 0 <= rate < MAX_RATES:
        raise ValueError(f"rate index must be in 0 to {MAX_RATES - 1}, got {rate}")
    return bytes([rate << 2 | has_local << 1 | (text is not None)]) + (text or b"")


def split_caption(section: bytes) -> tuple[int, bytes | None, bool]:
    """Inverse of `join_caption`.

    Raises:
        BitstreamError: the header byte is missing, or a caption follows that it does not announce.
    """
    if not section:
        raise BitstreamError("the stream has no header byte")
    head, text = section[0], section[1:]
    if not head & 1 and text:
        raise BitstreamError(f"{len(text)} bytes of caption in a stream without caption")
    return head >> 2, text if head & 1 else None, bool(head & 2)


def read_payload(
    payload: Sequence[bytes], num_rates: int
) -> tuple[int, bytes | None, bytes | None]:
    """Parse the sections of an image: index of the rate, encoded caption and encoded codes.

    Caption and codes are None if they were not sent.

    Raises:
        BitstreamError: the header byte is missing, the rate does not exist, or a caption or codes
            follow that the header byte does not announce.
    """
    head, codes = payload
    index, text, has_local = split_caption(head)
    if index >= num_rates:
        raise BitstreamError(f"rate index {index} is outside 0 to {num_rates - 1}")
    if codes and not has_local:
        raise BitstreamError(f"{len(codes)} bytes of codes in a stream without codes")
    return index, text, codes if has_local else None
