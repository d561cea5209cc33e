"""Bytes that nobody wrote, made of bytes that somebody did."""

import random
from collections.abc import Sequence


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A byte string with a few flipped, lost, repeated, foreign or missing parts."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        kind = rng.randrange(7)
        at = rng.randrange(len(out) + 1)
        length = rng.choice((1, 2, 4, 8, 32))
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif kind == 1 and out:
            out[at % len(out)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            del out[at : at + length]
        elif kind == 4:
            out[at:at] = rng.randbytes(length)
        elif kind == 5:
            out[at:at] = out[:length]
        else:
            out[at : at + length] = bytes([rng.choice((0, 0xFF))]) * length
    return bytes(out)


def mutated_sections(sections: Sequence[bytes], rng: random.Random) -> list[bytes]:
    """Sections of which at least one is another; sometimes they change places or are all new."""
    out = list(sections)
    kind = rng.randrange(10)
    if kind == 0:
        rng.shuffle(out)
    elif kind == 1:
        return [rng.randbytes(rng.choice((0, 1, 3, 40, 400))) for _ in out]
    # The sections differ in length a thousandfold: each is as likely as the others.
    at = rng.randrange(len(out))
    if kind == 2:
        # Digits that ask CompressAI's decoder for more digits, in bytes and in words.
        digits = rng.choice((b"\xff", b"\x0f\0\0\0")) * rng.choice((8, 64, 512))
        out[at] = out[at][: rng.randrange(len(out[at]) + 1)] + digits
    else:
        out[at] = mutated(out[at], rng)
    return out
