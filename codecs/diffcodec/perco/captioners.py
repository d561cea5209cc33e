"""Where captions come from: nowhere, a file, the data set. Models are in files of their own."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, Protocol

from torch import Tensor

QUALITY = "A high quality photograph."  # the fixed caption of the paper's ablation (Sec. 4.3)


class Captioner(Protocol):
    """Images (B, 3, H, W) in [0, 1], and the batch they are of -> a caption each.

    None is no caption: nothing is sent, and the decoder uses its learned embedding.
    """

    def __call__(self, x: Tensor, batch: Mapping[str, Any] | None = None) -> list[str | None]: ...


class FixedCaptioner:
    """The same caption for every image; null, the default, is the learned embedding."""

    def __init__(self, text: str | None = None) -> None:
        self.text = text

    def __call__(self, x: Tensor, batch: Mapping[str, Any] | None = None) -> list[str | None]:
        return [self.text] * len(x)


class FileCaptioner:
    """Captions by the image's name, from a file or from the data set itself.

    Args:
        path: a JSON object of name -> caption, or a COCO caption file, of which each image's first
            caption is taken; null uses the captions that the datamodule has.

    Raises:
        ValueError: the file is missing or neither of the two; when called, an image's caption is
            missing.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = path
        self._captions = None if path is None else _read_captions(Path(path).expanduser())

    def __call__(self, x: Tensor, batch: Mapping[str, Any] | None = None) -> list[str | None]:
        batch = batch or {}
        if self._captions is None:
            if "caption" not in batch:
                raise ValueError("the data set has no captions: give codec.captioner.path=FILE")
            return list(batch["caption"])
        if "name" not in batch:
            raise ValueError(f"captions from {self.path} need the images' names")
        return [self._find(name) for name in batch["name"]]

    def _find(self, name: str) -> str:
        assert self._captions is not None
        path = PurePath(name)
        for key in (name, path.name, str(path.with_suffix("")), path.stem):
            if key in self._captions:
                return self._captions[key]
        raise ValueError(f"{self.path} has no caption for {name!r}")


def _read_captions(path: Path) -> dict[str, str]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read captions from {path}: {error}") from error
    captions: dict[str, str] = {}
    try:
        if "annotations" in data:
            names = {image["id"]: image["file_name"] for image in data["images"]}
            for annotation in data["annotations"]:
                captions.setdefault(names[annotation["image_id"]], annotation["caption"].strip())
        else:
            captions = dict(data)
    except (KeyError, TypeError, ValueError, AttributeError):
        captions = {}
    if not captions or not all(isinstance(caption, str) for caption in captions.values()):
        raise ValueError(f"{path} is neither a COCO caption file nor an object of name -> caption")
    return captions
