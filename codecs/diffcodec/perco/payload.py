"""What PerCo's streams hold: first a byte of facts and the caption, then the codes.

first section   bit 0: a caption follows; bit 1: there are codes; bits 2 to 7: number of the
                rate; then the caption, by one of the text coders
second section  the indices of the codes
"""

from collections.abc import Callable, Sequence

from diffcodec.bitstream import BitstreamError
from diffcodec.entropy import decode_indices
from diffcodec.perco.rates import Rate

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
    payload: Sequence[bytes],
    rates: Sequence[Rate],
    height: int,
    width: int,
    decode_text: Callable[[bytes], str],
) -> tuple[int, str | None, list[int] | None]:
    """Both sections of an image -> number of its rate, caption and indices, None where not sent.

    Raises:
        BitstreamError: they are not what the encoder writes for an image of that size.
    """
    head, codes = payload
    index, text, has_local = split_caption(head)
    if index >= len(rates):
        raise BitstreamError(f"rate {index} is not one of 0 to {len(rates) - 1}")
    caption = None if text is None else decode_text(text)
    if not has_local:
        if codes:
            raise BitstreamError(f"{len(codes)} bytes of codes in a stream without codes")
        return index, caption, None
    rows, columns = rates[index].code_shape(height, width)
    return index, caption, decode_indices(codes, rows * columns, rates[index].num_codes)
