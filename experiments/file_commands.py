"""Common code of `compress` and `decompress`: file arguments, and `codec.yaml` beside streams.

`codec.yaml` contains the overrides that chose the codec, as typed. Streams may come from anywhere,
so it can only name choices of this project's own configs.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from datamodules.files import check_name
from experiments.cli import compose_config, fail, quiet_libraries
from experiments.overrides import split_paths, with_absolute_paths

CODEC_FILE = "codec.yaml"
TRUSTED = ("diffcodec.", "datamodules.", "torchvision.transforms.v2.")


@dataclass(frozen=True)
class Job:
    """One file to read and one to write.

    Attributes:
        source, target: their paths.
        folder: the common output folder; None for a single file.
    """

    source: Path
    target: Path
    folder: Path | None = None


def find_inputs(
    inputs: Sequence[Path], output: Path, list_files: Callable[[Path], list[Path]], suffix: str
) -> list[Job]:
    """Input files and folders -> which file is written where.

    Args:
        inputs: files, or folders whose files `list_files` names.
        output: a file if the only input is a file and `output` is not a folder; else a folder.
        list_files: folder -> its input files.
        suffix: of files in an output folder.

    Raises:
        ValueError: an input or the output's folder is missing, two outputs would have one name, or
            an output would replace an input or a file of another kind.
    """
    for path in (*inputs, output):
        check_name(path)
    for path in inputs:
        if not path.exists():
            raise ValueError(f"no such file: {path}")
    if len(inputs) == 1 and inputs[0].is_file() and not output.is_dir():
        if not output.parent.is_dir():
            raise ValueError(f"no such folder: {output.parent}")
        _refuse_to_replace([Job(inputs[0], output)], suffix)
        return [Job(inputs[0], output)]
    if output.is_file():
        raise ValueError(f"{output} is a file: several outputs need a folder")
    jobs: dict[Path, Job] = {}
    for path in inputs:
        if path.is_dir() and output.is_dir() and path.samefile(output):
            raise ValueError(f"{path} is the input folder: pass another output folder")
        for source in list_files(path) if path.is_dir() else [path]:
            below = source.relative_to(path) if path.is_dir() else Path(source.name)
            target = output / below.with_suffix(suffix)
            if target in jobs:
                raise ValueError(
                    f"{jobs[target].source} and {source} would both be written to {target}"
                )
            jobs[target] = Job(source, target, output)
    if not jobs:
        raise ValueError(f"no image below {', '.join(map(str, inputs))}")
    _refuse_to_replace([*jobs.values()], suffix)
    return list(jobs.values())


def _refuse_to_replace(jobs: Sequence[Job], suffix: str) -> None:
    """Check that no output replaces an input or a file of another kind.

    Raises:
        ValueError: an existing output is an input, or has another suffix.
    """
    read = {(stat.st_dev, stat.st_ino): job.source for job in jobs for stat in [job.source.stat()]}
    for job in jobs:
        if not job.target.exists():
            continue
        stat = job.target.stat()
        if (stat.st_dev, stat.st_ino) in read:
            raise ValueError(f"{job.target} is an input: pass another output")
        if job.target.suffix.lower() != suffix:
            raise ValueError(f"{job.target} exists and is not a {suffix} file: pass another output")


def write_codec_file(folder: Path, overrides: Sequence[str]) -> Path:
    """Write the settings that `decompress` needs beside the streams, with absolute paths."""
    path = folder / CODEC_FILE
    lasting = {"overrides": with_absolute_paths(overrides)}
    path.write_text(yaml.safe_dump(lasting, allow_unicode=True), encoding="utf-8")
    return path


def read_codec_file(path: Path) -> list[str]:
    """The overrides of a `codec.yaml`.

    Raises:
        ValueError: the file has another form, or names code outside this project.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    overrides = data.get("overrides") if isinstance(data, dict) else None
    if not isinstance(overrides, list) or not all(isinstance(o, str) for o in overrides):
        raise ValueError(f"{path} has no overrides: expected {{overrides: [key=value, …]}}")
    config: Any = OmegaConf.to_container(compose_config(overrides).codec, resolve=True)
    foreign = sorted({str(t) for t in _targets(config) if not str(t).startswith(TRUSTED)})
    if foreign:
        raise ValueError(f"{path} refers to code outside this project: {', '.join(foreign)}")
    return overrides


def file_command(
    plan: Callable[[Sequence[Path], Path], list[Job]],
    function: Callable[[Sequence[Job], DictConfig, Sequence[str]], list[str]],
    arguments: list[str],
    usage: str | None,
) -> None:
    """Run `INPUT… OUTPUT [key=value …]`: plan first, then load the codec once."""
    paths, overrides = split_paths(arguments)
    if len(paths) < 2 or any(a.startswith("-") for a in arguments):
        sys.exit((usage or "").strip())
    *inputs, output = paths
    try:
        jobs = plan(inputs, output)
        beside = [path / CODEC_FILE for path in inputs if (path / CODEC_FILE).is_file()]
        if len(beside) > 1:
            raise ValueError(f"one folder of streams at a time, got {len(beside)}")
        known = read_codec_file(beside[0]) if beside else []
        cfg = compose_config([*known, *overrides])
        quiet_libraries()
        for line in function(jobs, cfg, overrides):
            print(line, flush=True)
    except (ValueError, OSError, HydraException) as error:
        fail(error)


def _targets(config: Any) -> Iterator[Any]:
    if isinstance(config, dict):
        if "_target_" in config:
            yield config["_target_"]
        for value in config.values():
            yield from _targets(value)
    elif isinstance(config, list):
        for value in config:
            yield from _targets(value)
