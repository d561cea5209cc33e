"""What a run needs from elsewhere: the list of sources, and which of them a config uses."""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from datamodules.shards import Shards
from diffcodec.metrics import Metric, SetMetric, all_metrics
from experiments.cli import CONFIG_DIR

SOURCES = Path(CONFIG_DIR) / "downloads.yaml"
CHECKSUM = "#sha256="
# Config keys that hold a source of weights.
WEIGHTS_KEYS = ("weights", "source", "consistency", "model", "vgg_weights", "repo")
# Config keys of perceptual loss weights, and the list entries that their choices need.
PERCEPTUAL_WEIGHTS = ("rho", "lpips_weight", "perceptual_weight")
LOSS_NETWORKS = {"vgg": "vgg16", "st-alex": "st_lpips", "st-vgg": "st_lpips_vgg"}
REMOTE = ("hf://", "http://", "https://", "pip://")


@dataclass(frozen=True, eq=False)
class Source:
    """A source that is fetched from elsewhere; see `configs/downloads.yaml` for the fields."""

    name: str
    title: str
    kind: str
    source: str
    fetch: str
    licence: str
    checksum: str
    gigabytes: float | None = None
    note: str = ""
    file: str = ""
    module: str = ""
    metrics: Sequence[str] = ()
    programs: Sequence[str] = ()
    needed_by: Sequence[Mapping[str, Any]] = ()

    def names(self, location: str) -> bool:
        """Whether a source of a config is this one, at any revision."""
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(_without_revision(self.source)))
        return re.fullmatch(pattern, _without_revision(location)) is not None


@dataclass(frozen=True)
class Need:
    """Something that a run needs.

    Attributes:
        where: key of the config that asks for it.
        location: as in the config or the list of sources.
        source: its entry in the list; None if it is not listed.
        state: `here`, `download`, `missing` (get it by hand) or `unknown`.
        told: what to do, or where it is.
        optional: the run continues without it and skips something.
    """

    where: str
    location: str
    source: Source | None
    state: str
    told: str = ""
    optional: bool = False


@cache
def all_sources() -> dict[str, Source]:
    """The list of `configs/downloads.yaml`, by name."""
    listed = OmegaConf.to_container(OmegaConf.load(SOURCES))
    assert isinstance(listed, dict)
    return {str(name): Source(name=str(name), **entry) for name, entry in listed.items()}


def find_source(location: str) -> Source | None:
    """The list entry of a source of a config; None if there is none."""
    return next((entry for entry in all_sources().values() if entry.names(location)), None)


def needs_of(cfg: DictConfig) -> list[Need]:
    """What a composed config needs, each once. Nothing is loaded or downloaded."""
    tree = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(tree, dict)
    parts = {name: tree.get(name) for name in ("codec", "part", "datamodule") if tree.get(name)}
    parts = {name: OmegaConf.to_container(cfg[name], resolve=True) for name in parts}
    found = [*_data(cfg), *_weights(parts), *_conditions(parts), *_metrics(cfg), *_losses(cfg)]
    if cfg.get("ckpt_path"):
        found.append(_local("ckpt_path", str(cfg.ckpt_path)))
    return list({(need.location, need.optional): need for need in found}.values())


def _weights(parts: Mapping[str, Any]) -> Iterator[Need]:
    """Sources that a config states directly."""
    from diffcodec.weights.sources import ZOO, shipped

    for path, value in _leaves(parts):
        key = path.rpartition(".")[2]
        if not isinstance(value, str):
            continue
        if value.startswith(REMOTE):
            yield _remote(path, value)
        elif key in WEIGHTS_KEYS and value != ZOO and key != "repo":
            name = value.partition(CHECKSUM)[0]
            if name in shipped():
                folder = shipped()[name]
                yield Need(path, value, None, "here", f"ships ({_size(folder)})")
            elif key != "model":
                yield _local(path, value)


def _conditions(parts: Mapping[str, Any]) -> Iterator[Need]:
    """List entries that state which configs need them."""
    root = Path(str((parts.get("datamodule") or {}).get("root") or ".")).expanduser()
    for path, node in _nodes(parts):
        for entry in all_sources().values():
            if entry.kind == "data" and node.get("_target_") == DATAMODULE:
                continue  # handled by `_data`
            for condition in entry.needed_by:
                if not _matches(node, condition):
                    continue
                if entry.kind == "data":  # a file beside the images
                    (file,) = condition.values()
                    here = (root / file).exists()
                    told = "" if here else f"{root / file} does not exist"
                    yield Need(path, entry.source, entry, "here" if here else "missing", told)
                else:
                    yield _stated(path, entry, node)


DATAMODULE = "datamodules.module.ImageDataModule"


def _data(cfg: DictConfig) -> Iterator[Need]:
    """The images of the datamodule, and whether they exist."""
    from hydra.utils import instantiate

    node = cfg.get("datamodule")
    if node is None:
        return
    known: Any = OmegaConf.to_container(node, resolve=True)
    entry = next(
        (
            source
            for source in all_sources().values()
            if any(_matches(known, condition) for condition in source.needed_by)
        ),
        None,
    )
    root = None if node.root is None else Path(str(node.root)).expanduser()
    splits = ("train", "val", "test") if cfg.get("fit") else ("test",)
    for split in splits:
        if node.get(split) is None:
            continue
        where = f"datamodule.{split}"
        try:
            source = instantiate(node[split], _convert_="all")
            if isinstance(source, Shards):
                told = f"{len(source.locations(root))} shards"
            else:
                told = f"{len(source.items(root))} images"
        except ValueError as error:
            state = "download" if entry is not None and entry.fetch == "run" else "missing"
            yield Need(where, f"{node.name}, {split}", entry, state, str(error))
        else:
            yield Need(where, f"{node.name}, {split}", None, "here", told)


def _metrics(cfg: DictConfig) -> Iterator[Need]:
    """Networks and packages of the measured metrics; each is optional."""
    evaluation = (cfg.get("callbacks") or {}).get("evaluation")
    if evaluation is None or cfg.get("codec") is None:
        return
    known = all_metrics()
    keys = list(evaluation.get("metrics") or [key for key, m in known.items() if m.default])
    given = {name: value for name, value in (evaluation.get("weights") or {}).items() if value}
    for name, value in given.items():
        where = f"callbacks.evaluation.weights.{name}"
        yield _remote(where, value) if str(value).startswith(REMOTE) else _local(where, value)
    taken = {key for key in keys if key in known and _taker(known[key]) in given}
    for entry in all_sources().values():
        wanting = [k for k in entry.metrics if k in keys and (k not in taken or entry.module)]
        if wanting:
            need = _stated("callbacks.evaluation.metrics", entry, {})
            left_out = "" if need.state == "here" else f"without it: no {', '.join(wanting)}"
            told = "; ".join(filter(None, (need.told, left_out)))
            yield Need(need.where, need.location, entry, need.state, told, optional=True)


def _losses(cfg: DictConfig) -> Iterator[Need]:
    """Networks of the perceptual losses of a training."""
    from diffcodec.weights.configuration import INHERIT

    if not cfg.get("fit"):
        return
    for path, node in _nodes({"codec": cfg.get("codec") or {}, "part": cfg.get("part") or {}}):
        weighed = any((node.get(key) or 0) > 0 for key in PERCEPTUAL_WEIGHTS)
        if node.get("vgg_weights") or not (weighed or node.get("distance") == "perceptual"):
            continue
        choice = node.get("perceptual")
        if choice in (None, INHERIT):
            need = _stated(f"{path}.perceptual", all_sources()["vgg16"], {})
            told = need.told or "without it: st-vgg"
            yield Need(need.where, need.location, need.source, need.state, told, optional=True)
            continue
        for name in choice.split("+"):
            yield _stated(f"{path}.perceptual", all_sources()[LOSS_NETWORKS[name]], {})


def _remote(where: str, location: str) -> Need:
    entry = find_source(location)
    if entry is None:
        return Need(where, location, None, "unknown", "not listed in configs/downloads.yaml")
    here = _cached(location, entry)
    return Need(where, location, entry, "here" if here else "download", str(here or ""))


def _stated(where: str, entry: Source, node: Mapping[str, Any]) -> Need:
    if entry.programs:
        commands = [str(node.get(program) or program) for program in entry.programs]
        missing = [command for command in commands if shutil.which(command) is None]
        told = f"not on PATH: {', '.join(missing)}" if missing else ""
        return Need(where, entry.source, entry, "missing" if missing else "here", told)
    if entry.module:
        from importlib.util import find_spec

        here: Any = find_spec(entry.module)
        state = "here" if here else "missing"
        return Need(where, entry.source, entry, state, "" if here else entry.note)
    here = _cached(entry.source, entry)
    state = "here" if here else "download" if entry.fetch == "run" else "missing"
    return Need(where, entry.source, entry, state, str(here or entry.note))


def _local(where: str, location: str) -> Need:
    path = Path(location.partition(CHECKSUM)[0]).expanduser()
    if "{" in location:  # one of several files
        path = path.parent
    if path.exists():
        return Need(where, location, None, "here", str(path))
    return Need(where, location, _of_name(path.name), "missing", f"{path} does not exist")


def _of_name(file: str) -> Source | None:
    """The list entry of a file by its name, for files that were fetched by hand."""
    named = (e for e in all_sources().values() if e.kind == "weights" and e.fetch == "hand")
    return next((e for e in named if e.source.rpartition("/")[2] == file), None)


def _cached(location: str, entry: Source) -> Path | None:
    """Where an earlier run stored it, or None."""
    import torch
    from huggingface_hub.constants import HF_HUB_CACHE

    if location.startswith("pip://"):
        from diffcodec.weights.sources import find_file

        try:
            return find_file(location)
        except ValueError:
            return None
    hub = Path(torch.hub.get_dir())
    if entry.file:
        found = next(iter(hub.rglob(entry.file)), None) if hub.is_dir() else None
        if found is not None:
            return found
    if entry.kind == "code":
        owner, name = entry.source.rsplit("/", 2)[-2:]
        return next(iter(hub.glob(f"{owner}_{name}_*")), None)
    match = re.fullmatch(r"hf://([^/@]+)/([^/@]+)(?:@([^/]+))?(?:/(.+))?", location)
    if match is None:
        return None
    owner, name, revision, file = match.groups()
    snapshots = Path(HF_HUB_CACHE) / f"models--{owner}--{name}" / "snapshots"
    weights = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt")
    patterns = weights if file is None else (file.rpartition("/")[2].replace("{", "*{"),)
    for pattern in patterns:
        pattern = re.sub(r"\{\w+\}", "*", pattern)
        for path in snapshots.glob(f"{revision or '*'}/**/{pattern}"):
            return path.parent
    return None


def _nodes(tree: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every mapping below a config, with its dotted key."""
    if isinstance(tree, Mapping):
        yield path, tree
        for key, value in tree.items():
            yield from _nodes(value, f"{path}.{key}".lstrip("."))
    elif isinstance(tree, list):
        for value in tree:
            yield from _nodes(value, path)


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value below a config, with its dotted key."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}".lstrip("."))
    elif isinstance(tree, list):
        for value in tree:
            yield from _leaves(value, path)
    else:
        yield path, tree


def _matches(node: Mapping[str, Any], condition: Mapping[str, Any]) -> bool:
    return all(key in node and node[key] == value for key, value in condition.items())


def _taker(metric: Metric) -> str:
    return metric.embedding if isinstance(metric, SetMetric) else metric.key


def _without_revision(location: str) -> str:
    return re.sub(r"@[^/]+", "", location.partition(CHECKSUM)[0])


def _size(folder: Path) -> str:
    size = sum(path.stat().st_size for path in folder.iterdir())
    return f"{size / 1e6:.1f} MB"
