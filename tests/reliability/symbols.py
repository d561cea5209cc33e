"""What entropy coders are given and what they give back, as numbers."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from compressai import ans

from diffcodec.coding import entropy


class Symbols:
    """The symbols that passed through the entropy coders, in their order.

    Attributes:
        written: by the encoders.
        read: by the decoders.
    """

    def __init__(self) -> None:
        self.written: list[int] = []
        self.read: list[int] = []

    def take(self) -> tuple[list[int], list[int]]:
        """Both, from the last call on."""
        taken = self.written, self.read
        self.written, self.read = [], []
        return taken


@contextmanager
def watched() -> Iterator[Symbols]:
    """Gather the symbols of CompressAI's coders and of PerCo's codes while the context lasts."""
    symbols = Symbols()

    def wrap(function: Any, name: str) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            result = function(*args, **named)
            if name == "encode_with_indexes":
                symbols.written += args[1]
            elif name == "encode_indices":
                symbols.written += args[0]
            else:
                symbols.read += result
            return result

        return call

    class Encoder(ans.BufferedRansEncoder):  # type: ignore[misc]
        encode_with_indexes = wrap(
            ans.BufferedRansEncoder.encode_with_indexes, "encode_with_indexes"
        )

    class Decoder(ans.RansDecoder):  # type: ignore[misc]
        decode_stream = wrap(ans.RansDecoder.decode_stream, "decode_stream")

    write = entropy.FrequencyEncoder.write

    def write_frequencies(encoder: Any, codes: Any, frequencies: Any) -> None:
        before = len(symbols.written)
        write(encoder, codes, frequencies)
        # What it hands to CompressAI's coder are intervals, and not the symbols themselves.
        filling = frequencies is entropy.FILLING  # symbols that say nothing
        symbols.written[before:] = [] if filling else codes.tolist()

    undo: list[tuple[Any, str, Any]] = [(entropy.FrequencyEncoder, "write", write)]
    entropy.FrequencyEncoder.write = write_frequencies  # type: ignore[method-assign]
    for name in ("encode_indices", "decode_indices"):
        original, wrapped = getattr(entropy, name), wrap(getattr(entropy, name), name)
        for module in list(sys.modules.values()):
            if getattr(module, name, None) is original:
                undo.append((module, name, original))
                setattr(module, name, wrapped)
    for name, replacement in (("BufferedRansEncoder", Encoder), ("RansDecoder", Decoder)):
        original = getattr(ans, name)
        for module in list(sys.modules.values()):
            if getattr(module, name, None) is original:
                undo.append((module, name, original))
                setattr(module, name, replacement)
    try:
        yield symbols
    finally:
        for owner, name, original in undo:
            setattr(owner, name, original)
