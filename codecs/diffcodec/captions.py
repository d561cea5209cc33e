"""A codec that sends a caption with each image, and what captions are made by."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from diffcodec.codec import Codec
from diffcodec.latent.text_coding import find_text_coder
from diffcodec.points import Point


class Captioner(Protocol):
    """Images (B, 3, H, W) in [0, 1], and the batch they are of -> a caption each.

    None is no caption: nothing is sent, and the decoder uses its learned embedding.
    """

    def __call__(self, x: Tensor, batch: Mapping[str, Any] | None = None) -> list[str | None]: ...


class CaptionedCodec(Codec):
    """A codec that sends a caption with each image.

    Args:
        points: the operating points.
        captioner: images -> captions; None sends none.
        text_coder: `zlib` or `dictionary`, see `diffcodec.latent.text_coding`.

    Raises:
        ValueError: there is no such text coder.
    """

    def __init__(
        self,
        points: Sequence[Point] = (Point("default"),),
        *,
        captioner: Captioner | None,
        text_coder: str,
    ) -> None:
        super().__init__(points)
        self.captioner = captioner
        self.text_coder = text_coder
        self._encode_text, self._decode_text = find_text_coder(text_coder)

    @torch.no_grad()
    def compress(self, x: Tensor, captions: Sequence[str | None] | None = None) -> list[bytes]:
        """As `Codec.compress`, with captions given in place of the captioner's, if any."""
        if captions is None:
            return super().compress(x)
        if len(captions) != len(x):
            raise ValueError(f"{len(captions)} captions for {len(x)} images")
        with self._captioned_by(lambda *_: list(captions)):
            return super().compress(x)

    def compress_batch(self, batch: Mapping[str, Any]) -> list[bytes]:
        # Captions may come from the data set, or by the images' names.
        captioner = self.captioner
        if captioner is None:
            return super().compress_batch(batch)
        with self._captioned_by(lambda x, _=None: captioner(x, batch)):
            return super().compress_batch(batch)

    def captions_of(
        self, x: Tensor, batch: Mapping[str, Any] | None = None
    ) -> Sequence[str | None]:
        """The captioner's captions of images (B, 3, H, W) in [0, 1]."""
        return [None] * len(x) if self.captioner is None else self.captioner(x, batch)

    @contextmanager
    def _captioned_by(self, captioner: Captioner) -> Iterator[None]:
        own, self.captioner = self.captioner, captioner
        try:
            yield
        finally:
            self.captioner = own
