"""Fixed captions, and captions from a file or the data set.

Captioners that compute captions from the image are in `palette`, `blip2` and `inversion`.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from diffcodec.latent.captions import Captioner
from diffcodec.weights.configuration import Configured

QUALITY = "A high quality photograph."  # the fixed caption of the paper's ablation (Sec. 4.3)


@runtime_checkable
class CaptionerOfImages(Protocol):
    """A captioner that accepts images of different sizes in one call."""

    def caption_images(self, images: Sequence[Tensor]) -> list[str]:
        """Images (3, H, W) in [0, 1] -> one caption per image."""


def caption_images(captioner: Captioner, images: Sequence[Tensor]) -> list[str | None]:
    """Caption images (3, H, W) in [0, 1] of any sizes, in one call if the captioner supports it."""
    if isinstance(captioner, CaptionerOfImages):
        return list(captioner.caption_images(images))
    return [captioner(image[None])[0] for image in images]


class FixedCaptioner(Configured):
    """The same caption for every image.

    Args:
        text: the caption; null sends none, and the decoder uses its learned embedding.
    """

    def __init__(self, text: str | None = None) -> None:
        self.text = text

    def __call__(self, x: Tensor, batch: Mapping[str, Any] | None = None) -> list[str | None]:
        return [self.text] * len(x)


class FileCaptioner(Configured):
    """Captions looked up by the image's name, from a file or from the data set.

    Args:
        captions: mapping of names to captions; null uses the datamodule's captions.
        path: file that the captions were read from, for error messages.

    Raises:
        ValueError: on a call, if an image's caption is missing.
    """

    def __init__(
        self, captions: Mapping[str, str] | None = None, *, path: str | None = None
    ) -> None:
        self._captions = None if captions is None else dict(captions)
        self._origin = "the given captions" if path is None else path

    def arguments(self) -> dict[str, Any]:
        # The captions belong to a data set and are not saved with the codec.
        return {**super().arguments(), "captions": None}

    def __call__(self, x: Tensor, batch: Mapping[str, Any] | None = None) -> list[str | None]:
        batch = batch or {}
        if self._captions is None:
            if "caption" not in batch:
                raise ValueError("the data set has no captions: pass codec.captioner.path=FILE")
            return list(batch["caption"])
        if "name" not in batch:
            raise ValueError(
                f"captions from {self._origin} need image names, which the batch does not have"
            )
        return [self._find(name) for name in batch["name"]]

    def _find(self, name: str) -> str:
        assert self._captions is not None
        path = PurePath(name)
        for key in (name, path.name, str(path.with_suffix("")), path.stem):
            if key in self._captions:
                return self._captions[key]
        raise ValueError(f"{self._origin} has no caption for {name!r}")
