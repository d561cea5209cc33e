"""Reads curves: this project's `curve.json` and CompressAI's published results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffcodec.results.curves import CURVE_FILE, ROWS_FILE, Curve, curve_from_json, read_json

DATASETS = Path(__file__).parents[1] / "configs" / "datamodule"


@dataclass(frozen=True, eq=False)
class Run:
    """One measured curve of a run or a publication.

    Attributes:
        curve: the measurements.
        source: a path, or the URL of a W&B run.
        folder: of `images.csv` and `reconstructions/`; None if unknown.
        modified: seconds since the epoch; of two runs of one config the newer one counts.
    """

    curve: Curve
    source: str
    folder: Path | None = None
    modified: float = 0.0

    @property
    def name(self) -> str:
        """The name in a legend, shared by runs that differ in settings."""
        if self.states_settings:
            return str(self.config.get("name") or self.curve.name)
        return self.curve.name

    @property
    def meta(self) -> Mapping[str, Any]:
        """What the file states of data set, metrics and config; empty for most publications."""
        return self.curve.meta

    @property
    def config(self) -> dict[str, Any]:
        """The run's config; empty if it has none."""
        return dict(self.meta.get("config") or {})

    @property
    def states_settings(self) -> bool:
        """Whether its points state their settings; older files have names only."""
        return any(point.settings for point in self.curve.points)

    @property
    def published(self) -> bool:
        """Whether it comes from elsewhere: only runs of this project have a config."""
        return not self.config


def find_runs(patterns: Sequence[str]) -> list[Run]:
    """The runs of files, folders and globs (`**` recurses), each once, in order.

    `NAME=PATTERN` renames the curves.

    Raises:
        ValueError: a pattern matches nothing, or a file is not a curve.
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
    """A curve file in CompressAI's results schema, with or without this project's `meta`.

    Raises:
        ValueError: the file is not a curve.
    """
    try:
        data = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path} is not a curve: {error}") from error
    # A run with several series has one folder per series, and its pictures above them.
    folder, above = path.parent, path.parent.parent
    if not (folder / ROWS_FILE).is_file() and (above / ROWS_FILE).is_file():
        folder = above
    curve = curve_from_json(data, source=str(path))
    meta = dict(curve.meta)
    # CompressAI and others name the data set only by the folder.
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
