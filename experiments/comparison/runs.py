"""Reading curves: `curve.json` of this project, and CompressAI's published results as they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffcodec.results.curves import CURVE_FILE, ROWS_FILE, Curve, curve_from_json, read_json

DATASETS = Path(__file__).parents[1] / "configs" / "datamodule"


@dataclass(frozen=True, eq=False)
class Run:
    """One measured curve, as one run or one publication left it.

    Attributes:
        curve: what was measured.
        source: where it was read from: a path, or the address of a W&B run.
        folder: where `images.csv` and `reconstructions/` may be; None where there is none.
        modified: seconds since the epoch: of two runs of one config the newer one counts.
    """

    curve: Curve
    source: str
    folder: Path | None = None
    modified: float = 0.0

    @property
    def name(self) -> str:
        """The name in a legend; runs that differ in their settings alone share it."""
        if self.states_settings:
            return str(self.config.get("name") or self.curve.name)
        return self.curve.name

    @property
    def meta(self) -> Mapping[str, Any]:
        """What the file says of data set, metrics and config; empty for most publications."""
        return self.curve.meta

    @property
    def config(self) -> dict[str, Any]:
        """The run's whole config, empty if it has none."""
        return dict(self.meta.get("config") or {})

    @property
    def states_settings(self) -> bool:
        """Whether its points say what chooses them; older files have their names alone."""
        return any(point.settings for point in self.curve.points)

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
            raise ValueError(f"no {CURVE_FILE} matches {pattern!r}")
        for path in paths:
            found.setdefault(path.resolve(), read_file(path, name))
    return list(found.values())


def read_file(path: Path, name: str | None = None) -> Run:
    """A curve file of CompressAI's results schema, with or without this project's `meta`.

    Raises:
        ValueError: it is no such file.
    """
    try:
        data = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a curve: {error}") from error
    # A run of several series has a curve in a folder of each, and its pictures above them.
    folder, above = path.parent, path.parent.parent
    if not (folder / ROWS_FILE).is_file() and (above / ROWS_FILE).is_file():
        folder = above
    curve = curve_from_json(data, source=str(path))
    meta = dict(curve.meta)
    # CompressAI and others keep a folder per data set and do not repeat it inside.
    if "dataset" not in meta and (DATASETS / f"{path.parent.name}.yaml").is_file():
        meta["dataset"] = path.parent.name
    if name is not None:
        meta["config"] = {**meta["config"], "name": name} if meta.get("config") else None
    curve = replace(curve, name=name or _name_of(curve, path), meta=meta)
    return Run(curve, str(path), folder, path.stat().st_mtime)


def _name_of(curve: Curve, path: Path) -> str:
    return path.stem if curve.name == str(path) else curve.name


def _matches(pattern: str) -> list[Path]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        return sorted(path.rglob(CURVE_FILE))
    if path.is_file():
        return [path]
    root = Path(path.anchor)
    return sorted(p for p in root.glob(str(path.relative_to(root))) if p.is_file())
