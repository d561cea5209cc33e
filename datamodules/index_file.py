"""Index files: the images of a large set in one file, so that start-up lists no folder.

A line is the path of an image relative to its folder, in UTF-8, optionally followed by height and
width in pixels, separated by tabs:

    train_0/000002b66c9c498e.jpg	768	1024

The file may be compressed with gzip, bzip2 or xz, whatever its name.
"""

import bz2
import gzip
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
from numpy.typing import NDArray

MAX_BYTES = 1 << 29
"""Of an index, decompressed: OpenImages' nine million paths and sizes are 330 MB."""
MAX_LINES = 1 << 24

_CHUNK = 1 << 22
_MAX_LINE = 4096
_OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_PART = rb"(?!\.{1,2}[/\t\n])[^/\t\r\n\x00]{1,255}+"
_LINES = re.compile(
    rb"(?:%b(?:/%b)*+(?:\t[1-9][0-9]{0,5}\t[1-9][0-9]{0,5})?\r?\n)*+" % (_PART, _PART)
)

Size = tuple[int, int]


class Index(Sequence[tuple[str, Size | None]]):
    """The paths of an index, each with its (height, width) or None; slices are indices.

    It takes the bytes of the file plus 16 per line, and is shared by forked processes.

    Args:
        data: the lines, each with its line feed.
        starts: offset of each line, and the end of the last one.
        rows: the selected lines in order; null: all.
    """

    def __init__(
        self,
        data: bytes | bytearray,
        starts: NDArray[np.int64],
        rows: NDArray[np.int64] | None = None,
    ) -> None:
        self._data = data
        self._starts = starts
        self._rows = np.arange(len(starts) - 1) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> tuple[str, Size | None]: ...
    @overload
    def __getitem__(self, index: slice) -> "Index": ...
    def __getitem__(self, index: int | slice) -> "tuple[str, Size | None] | Index":
        if isinstance(index, slice):
            return Index(self._data, self._starts, self._rows[index])
        row = self._rows[index]
        line = self._data[self._starts[row] : self._starts[row + 1]]
        path, *size = line.rstrip(b"\r\n").decode("utf-8").split("\t")
        return path, (int(size[0]), int(size[1])) if size else None

    def of_min_side(self, pixels: int) -> "Index":
        """Only the images whose shorter side has at least so many pixels.

        Raises:
            ValueError: the size of an image is not known.
        """
        kept = []
        for row, (path, size) in zip(self._rows, self, strict=True):
            if size is None:
                raise ValueError(f"the index has no size of {path!r}, which min_side needs")
            if min(size) >= pixels:
                kept.append(row)
        return Index(self._data, self._starts, np.array(kept, dtype=np.int64))


def read_index(path: Path) -> Index:
    """Read an index file; no image is opened.

    Raises:
        ValueError: it is missing, empty, broken or too large, a line is not a path inside the
            folder with or without a size, or an image is listed twice.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(max(map(len, _OPENERS)))
        opener = next((opener for m, opener in _OPENERS.items() if magic.startswith(m)), None)
        with path.open("rb") if opener is None else opener(path, "rb") as file:
            data, starts, hashes = _read_lines(file)
    except (OSError, EOFError, ValueError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(f"cannot read the index {path}: {error}") from error
    if len(starts) == 1:
        raise ValueError(f"the index {path} is empty")
    index = Index(data, starts)
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    for one, two in zip(order[same], order[same + 1], strict=True):
        if index[one][0] == index[two][0]:
            raise ValueError(f"the index {path} names {index[one][0]!r} twice")
    return index


def write_index(path: Path, images: Iterable[tuple[str, Size | None]]) -> int:
    """Write an index, compressed by its suffix (.gz, .bz2, .xz); returns the number of images.

    Raises:
        ValueError: a path cannot be listed in an index; no file is left.
    """
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    opener = openers.get(path.suffix, open)
    partial = path.with_name(f"{path.name}.part")
    count = 0
    try:
        with opener(partial, "wb") as file:
            for name, size in images:
                line = "\t".join((name, *map(str, size or ()))).encode("utf-8") + b"\n"
                # One line of the right form, not longer than the limit of the reader.
                if not (
                    _LINES.fullmatch(line) and line.count(b"\n") == 1 <= len(line) <= _MAX_LINE
                ):
                    raise ValueError(f"{name!r} cannot be listed in an index")
                file.write(line)
                count += 1
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def _read_lines(file: BinaryIO) -> tuple[bytearray, NDArray[np.int64], NDArray[np.int64]]:
    """The lines, their offsets, and a hash of each path."""
    data = bytearray()
    starts, hashes = [np.zeros(1, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    count = 0
    for block in _whole_lines(file):
        end = _matched(block)
        count += block.count(b"\n")
        if len(data) + len(block) > MAX_BYTES or count > MAX_LINES:
            raise ValueError(f"it has more than {MAX_BYTES >> 20} MiB or {MAX_LINES} lines")
        if end < len(block):
            number = count - block.count(b"\n", end) + 1
            line = block[end : end + 80].partition(b"\n")[0]
            raise ValueError(f"line {number}, {line!r}, is not the path of an image in the folder")
        block.decode("utf-8")
        starts.append(np.flatnonzero(np.frombuffer(block, np.uint8) == 0x0A) + 1 + len(data))
        paths = (line.partition(b"\t")[0] for line in block.split(b"\n")[:-1])
        hashes.append(np.fromiter(map(hash, paths), np.int64))
        data += block
    return data, np.concatenate(starts), np.concatenate(hashes)


def _matched(block: bytes) -> int:
    """Length of the prefix of a block that has only lines of an index."""
    match = _LINES.match(block)
    return match.end() if match else 0


def _whole_lines(file: BinaryIO) -> Iterator[bytes]:
    """The bytes of a file in chunks that end with a line."""
    rest = b""
    while chunk := file.read(_CHUNK):
        lines, feed, rest = (rest + chunk).rpartition(b"\n")
        if len(rest) > _MAX_LINE:
            raise ValueError(f"a line has more than {_MAX_LINE} bytes")
        if feed:
            yield lines + feed
    if rest:
        yield rest + b"\n"
