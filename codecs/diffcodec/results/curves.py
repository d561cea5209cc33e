"""`curve.json`: CompressAI's results schema, extended by metadata of the measurement.

    {"name": …, "description": …,
     "meta": {"points": [{"name", "rate", "encoding", "decoding", "series"}, …], "dataset": …, …},
     "results": {"bpp": [one value per point], "psnr-rgb": […], …}}

CompressAI's published files have no `meta`. In older files of this project, points are names.
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
MAX_FILE_BYTES = 1 << 26  # far above the size of a curve with hundreds of points


@dataclass(frozen=True, eq=False)
class Curve:
    """The measured points of one line of a figure.

    Attributes:
        name: display label.
        points: operating points, in the order of measurement.
        metrics: mapping of metric keys to finite values for each point; missing values are absent.
        meta: metadata such as data set, protocol and config, without `points`.
        description: free text.
    """

    name: str
    points: tuple[Point, ...]
    metrics: tuple[Mapping[str, float], ...]
    meta: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""

    @property
    def keys(self) -> list[str]:
        """Keys of the metrics that at least one point has."""
        return list(dict.fromkeys(key for point in self.metrics for key in point))

    def values(self, key: str) -> list[float | None]:
        """The values of a metric at all points; None where a point has no value."""
        return [point.get(key) for point in self.metrics]

    def pairs(self, key: str, rate: str = "bpp") -> list[tuple[float, float]]:
        """(rate, value) of the points that have both, sorted by rate."""
        return sorted((p[rate], p[key]) for p in self.metrics if rate in p and key in p)

    @property
    def ceiling(self) -> dict[str, float]:
        """Metric -> its limit at any rate; empty if only the rate limits the codec."""
        return dict(self.meta.get("ceiling") or {})

    def to_json(self) -> dict[str, Any]:
        """The contents of the curve's file; missing values are null."""
        return {
            "name": self.name,
            "description": self.description,
            "meta": {**self.meta, "points": [point.to_json() for point in self.points]},
            "results": {key: self.values(key) for key in self.keys},
        }


def curve_from_json(data: Any, *, source: str) -> Curve:
    """Convert JSON data to a curve.

    Args:
        data: data of a `curve.json` of this project or of CompressAI's published results.
        source: where the data were read from, for error messages.

    Raises:
        ValueError: the data are not a curve; the message gives the reason.
    """
    results = data.get("results") if isinstance(data, Mapping) else None
    if not isinstance(results, Mapping) or not isinstance(results.get("bpp"), list):
        raise ValueError(f"{source} is not a curve: it has no results/bpp")
    lengths = {key: len(values) for key, values in results.items() if isinstance(values, list)}
    count = lengths["bpp"]
    uneven = [key for key, length in lengths.items() if length != count]
    if not count:
        raise ValueError(f"{source} is not a curve: its results/bpp is empty")
    if uneven:
        raise ValueError(
            f"{source} is not a curve: {', '.join(uneven)} must have {count} values each"
        )
    if any(rate is not None and not (_is_number(rate) and rate > 0) for rate in results["bpp"]):
        raise ValueError(f"{source} is not a curve: its rates must be positive numbers")
    meta = _meta(data.get("meta"), source)
    stored = meta.pop("points", None) or [f"point {i + 1}" for i in range(count)]
    if not isinstance(stored, list) or len(stored) != count:
        raise ValueError(
            f"{source} is not a curve: it has {count} rates and another number of points"
        )
    try:
        points = tuple(Point.from_json(point) for point in stored)
    except ValueError as error:
        raise ValueError(f"{source} is not a curve: {error}") from error
    metrics = tuple(
        {str(key): float(results[key][i]) for key in lengths if _is_number(results[key][i])}
        for i in range(count)
    )
    name, description = _line(data.get("name")), str(data.get("description") or "")
    return Curve(name or source, points, metrics, meta, description)


# Keys of `meta` in this project's files. Other keys are displayed, but not used in computations.
_META: dict[str, tuple[type, ...]] = {
    **{"config": (dict,), "ceiling": (dict,), "variants": (dict,), "sizes": (list,)},
    **{"fid": (str,), "rate": (str,), "skipped": (list,), "points": (list,)},
    **{"num_images": (int,), "num_skipped": (int,), "num_patches": (int,)},
    **{"num_parameters": (int, float), "dataset": (str,), "digest": (str,)},
}


def _meta(meta: Any, source: str) -> dict[str, Any]:
    """Validate the `meta` of a file: comparisons rely on the types of its values."""
    if meta is None:
        return {}
    if not isinstance(meta, Mapping):
        raise ValueError(f"{source} is not a curve: its meta is a {type(meta).__name__}")
    for key, types in _META.items():
        value = meta.get(key)
        if value is not None and not isinstance(value, types):
            raise ValueError(f"{source} is not a curve: its meta/{key} is a {type(value).__name__}")
        if isinstance(value, int | float) and not _is_number(value):
            raise ValueError(f"{source} is not a curve: its meta/{key} is not finite")
    callbacks = (meta.get("config") or {}).get("callbacks")
    if callbacks is not None and not isinstance(callbacks, Mapping):
        raise ValueError(f"{source} is not a curve: its meta/config/callbacks is not a mapping")
    ceiling = {k: float(v) for k, v in (meta.get("ceiling") or {}).items() if _is_number(v)}
    return {k: v for k, v in meta.items() if v is not None} | (
        {"ceiling": ceiling} if ceiling else {}
    )


def _line(name: Any) -> str:
    """Convert a name to one line of limited length."""
    return " ".join(str(name or "").split())[:MAX_NAME]


def read_json(path: Path) -> Any:
    """Read an untrusted JSON file.

    Raises:
        ValueError: it cannot be read, is too large, or is not JSON.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"it has more than {MAX_FILE_BYTES >> 20} MiB")
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"cannot read {path}: it is nested too deeply") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def finite(metrics: Mapping[str, float | None]) -> dict[str, float]:
    """Remove metrics that are None or not finite, which JSON does not support."""
    return {k: v for k, v in metrics.items() if v is not None and math.isfinite(v)}


@contextmanager
def _replacing(path: Path) -> Iterator[TextIO]:
    """Write a text file atomically; errors name the final path."""
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
    """Write JSON atomically."""
    with _replacing(path) as file:
        file.write(json.dumps(data, indent=2, allow_nan=False) + "\n")


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a CSV file atomically, with a line per mapping and a column per key of any mapping."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with _replacing(path) as file:
        writer = csv.DictWriter(file, fieldnames=columns)
        writer.writeheader()
        writer.writerows(rows)


def safe_name(name: str) -> str:
    """Convert the name of a point or series to a file name, which is never `..` or hidden.

    An empty name stays empty.
    """
    safe = re.sub(r"[^\w=.,-]+", "_", name)
    safe = f"_{safe[1:]}" if safe.startswith(".") else safe
    while len(safe.encode()) > MAX_NAME:  # file systems count bytes
        safe = safe[:-1]
    return safe


def picture_name(index: int, name: str) -> str:
    """File name, without suffix, of an original or reconstructed image of the data set."""
    return f"{index:04d}-{safe_name(Path(name).stem)}"


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return -MAX_NUMBER <= value <= MAX_NUMBER  # false for NaN and for ints too large for a float
