"""Reading curves: `curve.json` of this project, and CompressAI's published results as they are."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE, ROWS = "curve.json", "images.csv"
DATASETS = Path(__file__).parents[1] / "configs" / "datamodule"


@dataclass(frozen=True, eq=False)
class Run:
    """One measured curve, as one run or one publication left it.

    Attributes:
        name: as in a legend.
        source: where it was read from: a path, or the address of a W&B run.
        points: (name of the operating point, metric -> finite value), in the order of the file.
        meta: what the file says of data set, metrics and config; empty for most publications.
        folder: where `images.csv` and `reconstructions/` may be; None where there is none.
        modified: seconds since the epoch: of two runs of one config the newer one counts.
    """

    name: str
    source: str
    points: tuple[tuple[str, dict[str, float]], ...]
    meta: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    modified: float = 0.0

    @property
    def config(self) -> dict[str, Any]:
        """The run's whole config, empty if it has none."""
        return dict(self.meta.get("config") or {})

    @property
    def published(self) -> bool:
        """Whether it comes from elsewhere: only runs of this project know their config."""
        return not self.config


def find_runs(patterns: Sequence[str]) -> list[Run]:
    """The runs of files, folders and globs (`**` goes down), each once, in order.

    `NAME=PATTERN` gives the curves another name.

    Raises:
        ValueError: a pattern matches nothing, or a file is no curve.
    """
    found: dict[Path, Run] = {}
    for pattern in patterns:
        name, paths = None, _matches(pattern)
        if not paths and "=" in pattern:
            name, _, rest = pattern.partition("=")
            paths = _matches(rest)
        if not paths:
            raise ValueError(f"no {FILE} matches {pattern!r}")
        for path in paths:
            found.setdefault(path.resolve(), read_file(path, name))
    return list(found.values())


def read_file(path: Path, name: str | None = None) -> Run:
    """A curve file of CompressAI's results schema, with or without this project's `meta`.

    Raises:
        ValueError: it is no such file.
    """
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no curve: {error}") from error
    # A run of several series has a curve in a folder of each, and its pictures above them.
    folder, above = path.parent, path.parent.parent
    if not (folder / ROWS).is_file() and (above / ROWS).is_file():
        folder = above
    run = read_data(data, source=str(path), folder=folder, modified=path.stat().st_mtime)
    meta = dict(run.meta)
    # CompressAI and others keep a folder per data set and do not repeat it inside.
    if "dataset" not in meta and (DATASETS / f"{path.parent.name}.yaml").is_file():
        meta["dataset"] = path.parent.name
    return Run(name or run.name, run.source, run.points, meta, run.folder, run.modified)


def read_data(data: Any, *, source: str, folder: Path | None = None, modified: float = 0.0) -> Run:
    """The run that a curve's JSON data describe.

    Raises:
        ValueError: they are no curve; the message says which and why.
    """
    results = data.get("results") if isinstance(data, dict) else None
    if not isinstance(results, dict) or not isinstance(results.get("bpp"), list):
        raise ValueError(f"{source} is no curve: it has no results/bpp")
    lengths = {key: len(values) for key, values in results.items() if isinstance(values, list)}
    count = lengths["bpp"]
    uneven = [key for key, length in lengths.items() if length != count]
    if uneven or not count:
        raise ValueError(f"{source} is no curve: {count} rates, but {uneven or 'no'} other values")
    meta = dict(data.get("meta") or {})
    names = meta.get("points") or [f"point {i + 1}" for i in range(count)]
    points = tuple(
        (str(name), {k: float(results[k][i]) for k in lengths if _is_number(results[k][i])})
        for i, name in enumerate(names[:count])
    )
    return Run(str(data.get("name") or Path(source).stem), source, points, meta, folder, modified)


def _matches(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        return sorted(path.rglob(FILE))
    if path.is_file():
        return [path]
    root = Path(path.anchor)
    return sorted(p for p in root.glob(str(path.relative_to(root))) if p.is_file())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
