"""`curve.json`: CompressAI's results schema, and what is needed to know what was measured.

    {"name": …, "description": …,
     "meta": {"points": [{"name", "rate", "encoding", "decoding", "series"}, …], "dataset": …, …},
     "results": {"bpp": [one value per point], "psnr-rgb": […], …}}

CompressAI's published files have no `meta`; older ones of this project have names for points.
"""

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from diffcodec.points import Point

CURVE_FILE, ROWS_FILE = "curve.json", "images.csv"
MAX_NAME = 200
MAX_NUMBER = 1e30
MAX_FILE_BYTES = 1 << 26  # of a curve: its points are hundreds, not millions


@dataclass(frozen=True, eq=False)
class Curve:
    """The measured points of one line of a figure.

    Attributes:
        name: as in a legend.
        points: the operating points, in the order in which they were measured.
        metrics: of each point, metric -> finite value; what a point lacks is left out.
        meta: what is known of data set, protocol and config; `points` is not part of it.
        description: free text.
    """

    name: str
    points: tuple[Point, ...]
    metrics: tuple[Mapping[str, float], ...]
    meta: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""

    @property
    def keys(self) -> list[str]:
        """The metrics that at least one point has."""
        return list(dict.fromkeys(key for point in self.metrics for key in point))

    def values(self, key: str) -> list[float | None]:
        """A metric of every point, None where it has none."""
        return [point.get(key) for point in self.metrics]

    def pairs(self, key: str, rate: str = "bpp") -> list[tuple[float, float]]:
        """(rate, value) of the points that have both, in order of rate."""
        return sorted((p[rate], p[key]) for p in self.metrics if rate in p and key in p)

    @property
    def ceiling(self) -> dict[str, float]:
        """Metric -> what no rate can pass; empty where nothing but the rate limits the codec."""
        return dict(self.meta.get("ceiling") or {})

    def to_json(self) -> dict[str, Any]:
        """The curve as its file holds it; null stands for what a point lacks."""
        return {
            "name": self.name,
            "description": self.description,
            "meta": {**self.meta, "points": [point.to_json() for point in self.points]},
            "results": {key: self.values(key) for key in self.keys},
        }


def curve_from_json(data: Any, *, source: str) -> Curve:
    """The curve that JSON data describe.

    Args:
        data: of this project or of CompressAI's published results.
        source: where they were read from, for messages.

    Raises:
        ValueError: they are no curve; the message says why.
    """
    results = data.get("results") if isinstance(data, Mapping) else None
    if not isinstance(results, Mapping) or not isinstance(results.get("bpp"), list):
        raise ValueError(f"{source} is no curve: it has no results/bpp")
    lengths = {key: len(values) for key, values in results.items() if isinstance(values, list)}
    count = lengths["bpp"]
    uneven = [key for key, length in lengths.items() if length != count]
    if uneven or not count:
        raise ValueError(f"{source} is no curve: {count} rates, but {uneven or 'no'} other values")
    if any(rate is not None and not (_is_number(rate) and rate > 0) for rate in results["bpp"]):
        raise ValueError(f"{source} is no curve: its rates are no positive numbers")
    meta = _meta(data.get("meta"), source)
    stored = meta.pop("points", None) or [f"point {i + 1}" for i in range(count)]
    if not isinstance(stored, list) or len(stored) != count:
        raise ValueError(f"{source} is no curve: {count} rates, but not as many points")
    try:
        points = tuple(Point.from_json(point) for point in stored)
    except ValueError as error:
        raise ValueError(f"{source} is no curve: {error}") from error
    metrics = tuple(
        {str(key): float(results[key][i]) for key in lengths if _is_number(results[key][i])}
        for i in range(count)
    )
    name, description = _line(data.get("name")), str(data.get("description") or "")
    return Curve(name or source, points, metrics, meta, description)


# What this project's own files have there. Other keys of `meta` are shown, and not computed with.
_META: dict[str, tuple[type, ...]] = {
    **{"config": (dict,), "ceiling": (dict,), "variants": (dict,), "sizes": (list,)},
    **{"fid": (str,), "rate": (str,), "skipped": (list,), "points": (list,)},
    **{"num_images": (int,), "num_skipped": (int,), "num_patches": (int,)},
    **{"num_parameters": (int, float), "dataset": (str,), "digest": (str,)},
}


def _meta(meta: Any, source: str) -> dict[str, Any]:
    """The `meta` of a file, of the types that comparisons rely on."""
    if meta is None:
        return {}
    if not isinstance(meta, Mapping):
        raise ValueError(f"{source} is no curve: its meta is a {type(meta).__name__}")
    for key, types in _META.items():
        value = meta.get(key)
        if value is not None and not isinstance(value, types):
            raise ValueError(f"{source} is no curve: its meta/{key} is a {type(value).__name__}")
        if isinstance(value, int | float) and not _is_number(value):
            raise ValueError(f"{source} is no curve: its meta/{key} is no finite number")
    callbacks = (meta.get("config") or {}).get("callbacks")
    if callbacks is not None and not isinstance(callbacks, Mapping):
        raise ValueError(f"{source} is no curve: its meta/config/callbacks is no mapping")
    ceiling = {k: float(v) for k, v in (meta.get("ceiling") or {}).items() if _is_number(v)}
    return {k: v for k, v in meta.items() if v is not None} | (
        {"ceiling": ceiling} if ceiling else {}
    )


def _line(name: Any) -> str:
    """A name as one line that is not too long to show."""
    return " ".join(str(name or "").split())[:MAX_NAME]


def read_json(path: Path) -> Any:
    """The data of a JSON file from anywhere.

    Raises:
        ValueError: it cannot be read, is too large, or is no JSON.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"it has more than {MAX_FILE_BYTES >> 20} MiB")
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"cannot read {path}: it is nested too deep") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def finite(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Without what JSON cannot hold or was not measured."""
    return {k: v for k, v in metrics.items() if v is not None and math.isfinite(v)}


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """A text file that takes another's place once it is whole; errors name it."""
    partial = path.with_name(path.name + ".part")
    try:
        with partial.open("w", newline="", encoding="utf-8") as file:
            yield file
        partial.replace(path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(data: Any, path: Path) -> None:
    """Write JSON in one step, so that a reader never sees half a file."""
    with _replacing(path) as file:
        file.write(json.dumps(data, indent=2, allow_nan=False) + "\n")


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write in one step a CSV line per mapping, with a column for each key that any of them has."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with _replacing(path) as file:
        writer = csv.DictWriter(file, fieldnames=columns)
        writer.writeheader()
        writer.writerows(rows)


def safe_name(name: str) -> str:
    """A name of a point or a series as that of a file or folder, never `..` nor a hidden one.

    No name is none.
    """
    safe = re.sub(r"[^\w=.,-]+", "_", name)
    safe = f"_{safe[1:]}" if safe.startswith(".") else safe
    while len(safe.encode()) > MAX_NAME:  # file systems count bytes
        safe = safe[:-1]
    return safe


def picture_name(index: int, name: str) -> str:
    """The file that holds an image of the data set, original or decoded, without its suffix."""
    return f"{index:04d}-{safe_name(Path(name).stem)}"


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return -MAX_NUMBER <= value <= MAX_NUMBER  # NaN is not; an int may be too large for a float
