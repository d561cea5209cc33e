"""Text coders for captions: zlib, or raw deflate with a dictionary of caption words."""

import zlib
from collections.abc import Callable

from diffcodec.coding.entropy import decode_text, encode_text, inflate_text, text_bytes
from diffcodec.latent.tokenizer import caption_words

_RAW = -zlib.MAX_WBITS  # without header and checksum, which the container has


def encode_with_dictionary(text: str) -> bytes:
    """Text -> raw deflate with `caption_words` as preset dictionary.

    Raises:
        ValueError: the text is longer than 64 KiB, which no decoder accepts.
    """
    deflater = zlib.compressobj(9, zlib.DEFLATED, _RAW, 9, zdict=caption_words().encode())
    return deflater.compress(text_bytes(text)) + deflater.flush()


def decode_with_dictionary(data: bytes) -> str:
    """Inverse of `encode_with_dictionary`, in bounded memory.

    Raises:
        BitstreamError: the data are not one complete deflate stream of at most 64 KiB of UTF-8.
    """
    return inflate_text(zlib.decompressobj(_RAW, zdict=caption_words().encode()), data)


TextCoder = tuple[Callable[[str], bytes], Callable[[bytes], str]]
TEXT_CODERS: dict[str, TextCoder] = {
    "zlib": (encode_text, decode_text),
    "dictionary": (encode_with_dictionary, decode_with_dictionary),
}


def find_text_coder(name: str) -> TextCoder:
    """Find the encoder and the decoder of a text coder by name.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in TEXT_CODERS:
        raise ValueError(f"unknown text_coder {name!r}, choose from {', '.join(TEXT_CODERS)}")
    return TEXT_CODERS[name]
