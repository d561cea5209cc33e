"""Files beside the images of a data set: lists of names, and captions."""

import json
import lzma
from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

from datamodules.files import SUFFIXES

COCO_30K = "coco_train2017_30k"


class Names:
    """Finds names of images in a set; folders and suffix may be omitted.

    `0001`, `0001.jpg` and `val/0001.png` all match `val/0001.png`; `test/0001` does not.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for name in names:
            self._by_stem[_stem(name)].append(name)

    def find(self, name: str) -> str | None:
        """The one matching name, or None.

        Raises:
            ValueError: several names match.
        """
        found = [
            other
            for other in self._by_stem.get(_stem(name), [])
            if all(a == b for a, b in zip(_parents(name), _parents(other), strict=False))
        ]
        same_file = [other for other in found if _file(other) == _file(name)]
        found = [other for other in found if other == name] or same_file or found
        if len(found) > 1:
            raise ValueError(
                f"ambiguous name {name!r}: it matches {' and '.join(map(repr, found))}"
            )
        return found[0] if found else None


def read_names(path: Path) -> list[str]:
    """The names in a text file, one per line.

    Raises:
        ValueError: the file is missing, not text or empty, or lists a name twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the list of images {path}: {error}") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise ValueError(f"the list of images {path} is empty")
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"the list of images {path} names {twice!r} twice")
    return names


def shipped_names(name: str) -> list[str] | None:
    """The names of a list that ships, or None if there is no such list.

    `coco_train2017_30k` lists the 30,000 images of COCO train2017 on which the public PerCo (SD) is
    evaluated.
    """
    if name != COCO_30K:
        return None
    packed = files("datamodules").joinpath(f"{name}.txt.xz").read_bytes()
    return [f"{int(number):012d}.jpg" for number in lzma.decompress(packed).split()]


def read_captions(path: Path) -> dict[str, str]:
    """Name -> its first caption; see `read_all_captions`."""
    return {name: captions[0] for name, captions in read_all_captions(path).items()}


def read_all_captions(path: Path) -> dict[str, list[str]]:
    """Name -> its captions.

    Args:
        path: a COCO annotation file, a JSON object of name -> caption or captions, or a folder
            written by `experiments.caption`.

    Raises:
        ValueError: the file is missing, or has another format.
    """
    if path.is_dir():
        written = {name: [caption] for name, caption in caption_lines(path)}
        if not written:
            raise ValueError(f"no captions in {path}: it has no .jsonl files of name and caption")
        return written
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot read captions from {path}: {error}") from error
    try:
        found = _coco_captions(data) if "annotations" in data else dict(data)
        captions = {name: [c] if isinstance(c, str) else list(c) for name, c in found.items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        captions = {}
    if not captions or not all(
        texts and all(isinstance(text, str) for text in (name, *texts))
        for name, texts in captions.items()
    ):
        raise ValueError(f"{path} is neither a COCO caption file nor an object of name -> caption")
    return captions


def caption_lines(folder: Path) -> Iterator[tuple[str, str]]:
    """The names and captions in a folder's `.jsonl` files, which may still be written.

    A line is `{"name": …, "caption": …}`. An incomplete last line, left by a killed process, is
    ignored.

    Raises:
        ValueError: another line has another form.
    """
    for path in sorted(folder.glob("*.jsonl")):
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        for number, line in enumerate(lines[:-1], start=1):
            try:
                found = json.loads(line)
                name, caption = str(found["name"]), str(found["caption"])
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"{path}, line {number}, is not a name with a caption") from error
            yield name, caption


def captions_of_file(path: str | None) -> dict[str, str] | None:
    """`read_captions` for configs: null gives no captions, and `~` is expanded."""
    return None if path is None else read_captions(Path(path).expanduser())


def _coco_captions(data: dict[str, Any]) -> dict[str, list[str]]:
    names = {image["id"]: image["file_name"] for image in data["images"]}
    captions: dict[str, list[str]] = defaultdict(list)
    for annotation in data["annotations"]:
        captions[names[annotation["image_id"]]].append(annotation["caption"].strip())
    return dict(captions)


def _file(name: str) -> str:
    return PurePosixPath(name).name


def _parents(name: str) -> tuple[str, ...]:
    """The folders above a path, innermost first."""
    return PurePosixPath(name).parts[-2::-1]


def _stem(name: str) -> str:
    # Only image suffixes count: `v1.2` has none.
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in SUFFIXES else path.name
