"""What PerCo's streams hold: first a byte of facts and the caption, then the codes.

first section   bit 0: a caption follows; bit 1: there are codes; bits 2 to 7: number of the
                rate; then the caption, by one of the text coders
second section  the indices of the codes, see `index_coder`
"""

from collections.abc import Sequence

from diffcodec.coding.bitstream import BitstreamError

MAX_RATES = 64


def join_caption(rate: int, text: bytes | None, *, has_local: bool) -> bytes:
    """Number of the rate, coded caption or None, whether there are codes -> the section."""
    if not 0 <= rate < MAX_RATES:
        raise ValueError(f"a stream can name {MAX_RATES} rates, not number {rate}")
    return bytes([rate << 2 | has_local << 1 | (text is not None)]) + (text or b"")


def split_caption(section: bytes) -> tuple[int, bytes | None, bool]:
    """Inverse of `join_caption`.

    Raises:
        BitstreamError: there is no such byte, or a caption where it says that there is none.
    """
    if not section:
        raise BitstreamError("the stream does not say what it holds")
    head, text = section[0], section[1:]
    if not head & 1 and text:
        raise BitstreamError(f"{len(text)} bytes of caption in a stream without caption")
    return head >> 2, text if head & 1 else None, bool(head & 2)


def read_payload(
    payload: Sequence[bytes], num_rates: int
) -> tuple[int, bytes | None, bytes | None]:
    """Both sections of an image -> number of its rate, coded caption and codes, None if not sent.

    Raises:
        BitstreamError: there is no such rate, or codes in a stream that says that it has none.
    """
    head, codes = payload
    index, text, has_local = split_caption(head)
    if index >= num_rates:
        raise BitstreamError(f"rate {index} is not one of 0 to {num_rates - 1}")
    if codes and not has_local:
        raise BitstreamError(f"{len(codes)} bytes of codes in a stream without codes")
    return index, text, codes if has_local else None
