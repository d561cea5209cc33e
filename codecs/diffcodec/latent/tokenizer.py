"""Tokenizer of the small text encoder: a vocabulary of caption words with a byte fallback."""

import re
from functools import cache
from importlib.resources import files

import torch
from torch import Tensor

END, BEGIN = 0, 1  # END is also the padding
_NUM_SPECIAL = 2
_PIECE = re.compile(r"[a-z]+|[^a-z\s]")


@cache
def caption_words() -> str:
    """Words and phrases of captions, the most common last, where deflate references are cheapest.

    The small tokenizer's vocabulary and PerCo's text coder depend on them. Changing them changes
    the bitstream format.
    """
    path = files("diffcodec.latent") / "caption_words.txt"
    return " ".join(path.read_text(encoding="utf-8").splitlines())


class WordTokenizer:
    """Texts -> token indices (B, length), with one token per word of `caption_words` or per byte.

    It ignores case and white space, and truncates long texts.
    """

    def __init__(self, length: int = 32) -> None:
        self.length = length

    @property
    def vocabulary_size(self) -> int:
        """Number of different tokens."""
        return _NUM_SPECIAL + 256 + len(_vocabulary())

    def __call__(self, texts: list[str]) -> Tensor:
        rows = torch.full((len(texts), self.length), END)
        for row, text in zip(rows, texts, strict=True):
            tokens = [BEGIN, *_tokens(text)][: self.length - 1]
            row[: len(tokens)] = torch.tensor(tokens)
        return rows


def _tokens(text: str) -> list[int]:
    words = _vocabulary()
    tokens = []
    for piece in _PIECE.findall(text.lower()):
        if piece in words:
            tokens.append(_NUM_SPECIAL + 256 + words[piece])
        else:
            tokens += [_NUM_SPECIAL + byte for byte in piece.encode()]
    return tokens


@cache
def _vocabulary() -> dict[str, int]:
    return {word: i for i, word in enumerate(sorted(set(re.findall(r"[a-z]+", caption_words()))))}
