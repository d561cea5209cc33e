"""The interface of captioners, and the choice of the caption to send with an image."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from diffcodec.points import Setting


class Captioner(Protocol):
    """Function from images (B, 3, H, W) in [0, 1] and their batch to one caption per image.

    None means that no caption is sent; the decoder uses its learned embedding.
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
    """The captions to send with images (B, 3, H, W) in [0, 1].

    Args:
        x: the images.
        fixed: caption of the operating point, which takes precedence; None if it has none.
        captioner: captioner that is called if no captions are given; None sends no captions.
        captions: one caption per image, in place of the captioner's.
        about: batch of the images, for the captioner.

    Raises:
        ValueError: the number of captions differs from the number of images.
    """
    if captions is not None and len(captions) != len(x):
        raise ValueError(f"{len(captions)} captions for {len(x)} images")
    if fixed is not None:
        return [str(fixed)] * len(x)
    if captions is not None:
        return list(captions)
    return [None] * len(x) if captioner is None else captioner(x, about)
