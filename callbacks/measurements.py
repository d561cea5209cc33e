"""The measurements of an unfinished evaluation on disk, from which it resumes.

    measured/about.json         what must agree for the rest to be reused
    measured/process-0.jsonl    a line per batch of the first process: rows, offsets of features
    measured/process-0.bin      the features, as concatenated safetensors

Files are append-only. A line is written after its features and contains their checksum: truncated
batches are measured again.
"""

import contextlib
import json
import shutil
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from diffcodec.results.curves import write_json

FOLDER = "measured"
_ABOUT = "about.json"
_CUT_OFF = (ValueError, KeyError, TypeError, OverflowError, OSError, SafetensorError)


@dataclass
class Features:
    """Features of one image's patches by the name of the embedding, (P, D) each.

    Features of the original are computed once for all points.

    Attributes:
        index: of the image.
        real: of the original.
        fake: of each point's reconstruction, by the point's name.
        numbers: of `AnnotatedMetric`s, which are summed over the images, by the point's name.
    """

    index: int
    real: dict[str, Tensor] = field(default_factory=dict)
    fake: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    numbers: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def flat(self) -> dict[str, Tensor]:
        """The tensors, each under one name."""
        tensors = {json.dumps(["real", name]): tensor for name, tensor in self.real.items()}
        for kind, of_points in (("fake", self.fake), ("numbers", self.numbers)):
            for point, named in of_points.items():
                tensors |= {json.dumps([kind, name, point]): t for name, t in named.items()}
        return tensors

    def add(self, key: str, tensor: Tensor) -> None:
        """Restore one tensor of `flat`."""
        kind, name, *points = json.loads(key)
        if kind == "real":
            self.real[name] = tensor
            return
        of_points = {"fake": self.fake, "numbers": self.numbers}[kind]
        of_points.setdefault(points[0], {})[name] = tensor


@dataclass
class Batch:
    """The measurements of some images at the points of one pass."""

    rows: list[dict[str, Any]]
    features: list[Features]

    @property
    def indices(self) -> set[int]:
        """The images."""
        return {row["index"] for row in self.rows}


class Measurements:
    """The folder that keeps the measurements of an evaluation while it runs.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder) / FOLDER
        self._lines: IO[bytes] | None = None
        self._blobs: IO[bytes] | None = None

    def start(self, about: Mapping[str, Any]) -> bool:
        """Keep existing measurements if they were made alike, else start over.

        One process calls it.

        Args:
            about: everything that decides what is measured; JSON types.

        Returns:
            Whether existing measurements are kept.
        """
        path = self.folder / _ABOUT
        wanted = json.loads(json.dumps(about))
        kept = self.folder.exists() and _read_json(path) == wanted
        if not kept:
            self.remove()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(wanted, path)
        return kept

    def read(self, key: str) -> Iterator[Batch]:
        """The measurements of all processes in one pass, in no particular order.

        Args:
            key: of the pass.
        """
        for path in sorted(self.folder.glob("process-*.jsonl")):
            blobs = path.with_suffix(".bin")
            with path.open("rb") as lines, blobs.open("rb") as file:
                for line in lines:
                    with contextlib.suppress(*_CUT_OFF):
                        entry = json.loads(line)
                        if entry["pass"] == key:
                            yield Batch(entry["rows"], _read_features(entry, file))

    def append(self, process: int, key: str, batch: Batch) -> None:
        """Add the measurements of one batch."""
        if self._lines is None or self._blobs is None:
            path = self.folder / f"process-{process}.jsonl"
            path.touch()
            _cut_to_whole_lines(path)
            self._lines, self._blobs = path.open("ab"), path.with_suffix(".bin").open("ab")
        blocks = []
        for of_image in batch.features:
            blob = save(of_image.flat())
            blocks.append([of_image.index, self._blobs.tell(), len(blob), zlib.crc32(blob)])
            self._blobs.write(blob)
        self._blobs.flush()
        entry = {"pass": key, "rows": batch.rows, "features": blocks}
        self._lines.write(json.dumps(entry, default=float).encode() + b"\n")
        self._lines.flush()

    def remove(self) -> None:
        """Delete all measurements."""
        for file in (self._lines, self._blobs):
            if file is not None:
                file.close()
        self._lines = self._blobs = None
        shutil.rmtree(self.folder, ignore_errors=True)


def _read_features(entry: Mapping[str, Any], file: IO[bytes]) -> list[Features]:
    found = []
    for index, start, length, checksum in entry["features"]:
        file.seek(start)
        blob = file.read(length)
        if len(blob) != length or zlib.crc32(blob) != checksum:
            raise ValueError("features are truncated")
        of_image = Features(index)
        for key, tensor in load(blob).items():
            of_image.add(key, tensor)
        found.append(of_image)
    return found


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _cut_to_whole_lines(path: Path) -> None:
    data = path.read_bytes()
    with path.open("r+b") as file:
        file.truncate(data.rfind(b"\n") + 1)
