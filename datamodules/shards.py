"""Training images in shards: tar files in the layout of WebDataset, local or remote.

The members of an image are adjacent and differ only in their suffix: `0001.jpg`, and `0001.txt`
with its caption. A shard is read sequentially and not stored.
"""

import io
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import fsspec

from datamodules.files import SUFFIXES
from datamodules.image_sets import below

SCHEMES = ("http", "https", "hf", "s3", "gs")
MAX_IMAGE_BYTES = 1 << 28
MAX_CAPTION_BYTES = 1 << 16
MAX_SHARDS = 1 << 20

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class ShardImage(NamedTuple):
    """An image of a shard: its name, the bytes of its file, and its caption, if any."""

    name: str
    data: bytes
    caption: str | None


class BrokenShardError(ValueError):
    """A shard is not a tar file from here on; the message names it."""


class UnreachableShardError(OSError):
    """A shard cannot be opened or read any further; the message names it."""


@dataclass(frozen=True)
class Shards:
    """Tar files of training images, read in shuffled order.

    Each loader process reads its own shards. Their order is shuffled, and images are shuffled in a
    buffer: use more shards than loader processes, with images in random order.
    `datamodule.samples_per_epoch` sets the length of an epoch; each epoch starts with other shards.

    Attributes:
        path: one or several of: a tar file, a glob (`train-*.tar`), a folder, absolute or relative
            to the datamodule's root; a URL (http, https, hf, and s3 and gs if fsspec's packages for
            them are installed). `{000..127}` expands to these numbers.
        buffer: images that a loader process holds, as files, to draw from.
        captions: whether an image's text file is its caption; images without one are skipped.

    Raises:
        ValueError: `buffer` is below 2.
    """

    path: str | Sequence[str] = "."
    buffer: int = 1000
    captions: bool = False

    def __post_init__(self) -> None:
        if self.buffer < 2:
            raise ValueError(f"buffer must be at least 2 images, got {self.buffer}")

    def prepare(self, root: Path | None) -> None:
        """Nothing is downloaded in advance."""

    def locations(self, root: Path | None) -> list[str]:
        """The shards, in a fixed order. Local shards are checked to exist, remote ones are not.

        Raises:
            ValueError: there are none, or a URL scheme is not supported.
        """
        paths = [self.path] if isinstance(self.path, str) else list(self.path)
        found = [shard for path in paths for one in _numbered(path) for shard in _found(root, one)]
        if len(set(found)) < len(found):
            raise ValueError("a shard is named twice")
        return found


def read_shard(location: str) -> Iterator[ShardImage]:
    """The images of a shard, in its order.

    Images of more than `MAX_IMAGE_BYTES`, and members that are neither images nor captions, are
    skipped.

    Raises:
        BrokenShardError: it is not a tar file, or is truncated.
        UnreachableShardError: it cannot be opened or read.
    """
    with _opened(location) as file:
        reader = _Reader(location, file)
        try:
            yield from _images(reader, PurePosixPath(location).name)
        except UnreachableShardError:
            raise
        # tarfile has no common error: broken headers also raise ValueError, RecursionError, …
        except Exception as error:
            raise BrokenShardError(f"cannot read the shard {location}: {error}") from error


class _Reader(io.RawIOBase):
    """Tells connection and disk errors from errors in the data."""

    def __init__(self, location: str, file: BinaryIO) -> None:
        self._location = location
        self._file = file

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except Exception as error:  # each file system of fsspec raises its own errors
            raise UnreachableShardError(f"cannot read {self._location}: {error}") from error


class _Header(tarfile.TarInfo):
    """A member header; a malformed one is an error, where tarfile takes it for the end."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> "_Header":
        try:
            return super().fromtarfile(tar)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


def _images(file: Any, shard: str) -> Iterator[ShardImage]:
    key, found, caption = "", None, None
    options: dict[str, Any] = {"encoding": "utf-8", "errors": "replace", "tarinfo": _Header}
    with tarfile.open(fileobj=file, mode="r|", **options) as tar:
        while (member := tar.next()) is not None:
            vars(tar)["members"] = []  # otherwise all members are kept
            if not member.isreg():
                continue
            folder, _, name = member.name.rpartition("/")
            stem, _, suffix = name.partition(".")
            if (member_key := f"{folder}/{stem}".lstrip("/")) != key:
                if found is not None:
                    yield ShardImage(*found, caption)
                key, found, caption = member_key, None, None
            suffix = f".{suffix.lower()}"
            if suffix in SUFFIXES and member.size <= MAX_IMAGE_BYTES and found is None:
                name = "".join(c if c.isprintable() else "\ufffd" for c in f"{key}{suffix}")
                found = (f"{shard}/{name}", _content(tar, member))
            elif suffix == ".txt" and member.size <= MAX_CAPTION_BYTES:
                caption = _content(tar, member).decode("utf-8", "replace").strip() or None
        if found is not None:
            yield ShardImage(*found, caption)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # it is a regular file
    return file.read()


def _opened(location: str) -> Any:
    try:
        return fsspec.open(location, "rb").open()
    except Exception as error:  # each file system of fsspec has its own
        raise UnreachableShardError(f"cannot open {location}: {error}") from error


def _numbered(path: str) -> Iterator[str]:
    """A path with each of the numbers that `{000..127}` expands to."""
    ranges = [(int(first), int(last), len(first)) for first, last in _RANGE.findall(path)]
    count = 1
    for first, last, _ in ranges:
        count *= max(0, last - first + 1)
        if not 0 < count <= MAX_SHARDS:
            raise ValueError(f"{path} matches no shard, or more than {MAX_SHARDS}")
    template = _RANGE.split(path)[::3]
    for numbers in product(*(range(first, last + 1) for first, last, _ in ranges)):
        written = [f"{n:0{width}d}" for n, (_, _, width) in zip(numbers, ranges, strict=True)]
        yield "".join(a + b for a, b in zip(template, [*written, ""], strict=True))


def _found(root: Path | None, path: str) -> list[str]:
    scheme, separator, _ = path.partition("://")
    if separator:
        if scheme not in SCHEMES:
            raise ValueError(
                f"shards cannot be read by {scheme}://, choose from {', '.join(SCHEMES)}"
            )
        return [path]
    local = below(root, path)
    if local.is_dir():
        local /= "*.tar"
    if any(character in local.name for character in "*?["):
        shards = sorted(local.parent.glob(local.name))
    else:
        shards = [local] if local.is_file() else []
    if not shards:
        raise ValueError(f"no shard {local}")
    return [str(shard) for shard in shards]
