"""What captions are made by, and which one is sent with an image."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from diffcodec.points import Setting


class Captioner(Protocol):
    """Images (B, 3, H, W) in [0, 1], and the batch they are of -> a caption each.

    None is no caption: nothing is sent, and the decoder uses its learned embedding.
    """

    def __call__(self, x: Tensor, batch: Mapping[str, Any] | None = None) -> list[str | None]: ...


def choose_captions(
    x: Tensor,
    fixed: Setting,
    captioner: Captioner | None,
    *,
    captions: Sequence[str | None] | None = None,
    about: Mapping[str, Any] | None = None,
) -> list[str | None]:
    """The captions that are sent with images (B, 3, H, W) in [0, 1].

    Args:
        x: the images.
        fixed: the operating point's caption, before all others; None is none.
        captioner: makes them where none are given; None makes none.
        captions: one for each image, in place of the captioner's.
        about: the batch that the images are of, for the captioner.

    Raises:
        ValueError: there are not as many captions as images.
    """
    if captions is not None and len(captions) != len(x):
        raise ValueError(f"{len(captions)} captions for {len(x)} images")
    if fixed is not None:
        return [str(fixed)] * len(x)
    if captions is not None:
        return list(captions)
    return [None] * len(x) if captioner is None else captioner(x, about)
