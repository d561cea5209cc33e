"""What can be set: every key of the codec of a config, with its default and its meaning.

    diffcodec run codec=perco --info

Defaults and meanings are read from the constructors and their docstrings, and the values of keys
that are not set from the `config.json` beside the weights.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

OPTION = "--info"
_TARGET = "_target_"
_NAMES = re.compile(r"(\w+(?:, \w+)*): (.*)")


def describe(cfg: DictConfig, config_dir: str) -> Iterator[str]:
    """Lines about the codec of a config and the parts that it is built from.

    Args:
        cfg: a composed config.
        config_dir: where the groups of choices are.

    Raises:
        ValueError: the config has no codec.
    """
    if cfg.get("codec") is None:
        raise ValueError(f"{OPTION} describes a codec: choose one by codec=…")
    for group in sorted((Path(config_dir) / "codec").iterdir()):
        if group.is_dir() and group.name in cfg.codec:
            names = sorted(path.stem for path in group.glob("*.yaml"))
            yield f"codec/{group.name}=… one of {', '.join(names)}"
    yield from _describe_node(OmegaConf.to_container(cfg.codec, resolve=True), "codec", {})


def _describe_node(node: Any, path: str, stored: Mapping[str, Any]) -> Iterator[str]:
    from hydra.utils import get_object

    if isinstance(node, Mapping) and isinstance(node.get(_TARGET), str):
        target = get_object(node[_TARGET])
        told = inspect.getdoc(target) or ""
        yield ""
        yield f"{path}: {node[_TARGET]}"
        yield f"  {told.partition(chr(10))[0]}"
        meanings = _meanings(target)
        stored = stored or _stored(node, target)
        for name, parameter in inspect.signature(target).parameters.items():
            yield from _describe_key(name, parameter, node, path, stored)
            if name in meanings:
                yield f"      {meanings[name]}"
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _describe_node(value, f"{path}.{name}", _inner(stored.get(name), value))


def _inner(stored: Any, node: Any) -> Mapping[str, Any]:
    """The stored config of an argument, if it is of the same class as the node."""
    if not isinstance(stored, Mapping) or not isinstance(node, Mapping):
        return {}
    return stored if stored.get(_TARGET) == node.get(_TARGET) else {}


def _stored(node: Mapping[str, Any], target: Any) -> Mapping[str, Any]:
    """The config beside the weights of a node or of its parts; empty if it needs a download."""
    from diffcodec.weights.configuration import stored_config

    for part in (node, *(value for value in node.values() if isinstance(value, Mapping))):
        source = part.get("weights")
        if isinstance(source, str) and "://" not in source:
            found = stored_config(source, target)
            if found is not None:
                return found
    return {}


def _meanings(target: Any) -> dict[str, str]:
    """The meanings of the arguments of a function or a class, inherited ones included."""
    classes = reversed(target.__mro__) if isinstance(target, type) else [target]
    found: dict[str, str] = {}
    for each in classes:
        found |= read_arguments(inspect.cleandoc(each.__doc__ or ""))
    return found


def _describe_key(
    name: str,
    parameter: inspect.Parameter,
    node: Mapping[str, Any],
    path: str,
    stored: Mapping[str, Any],
) -> Iterator[str]:
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        return
    default = parameter.default
    required = default is inspect.Parameter.empty
    facts = ["required" if required else f"default {shown(default)}"]
    value = node.get(name, default)
    if isinstance(value, Mapping):
        facts = [f"see {path}.{name} below"]
    elif name in node and (required or value != default):
        facts.append(f"here {shown(value)}")
    elif name in stored and not isinstance(stored[name], Mapping):
        kept = stored[name]
        if kept != (list(default) if isinstance(default, tuple) else default):
            facts.append(f"with these weights {shown(kept)}")
    yield f"  {path}.{name}  ({', '.join(facts)})"


def shown(value: Any) -> str:
    """A value as it is written in a YAML file."""
    if isinstance(value, tuple):
        value = list(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def read_arguments(docstring: str) -> dict[str, str]:
    """The arguments of a docstring in Google style -> their meanings, each in one line."""
    lines = iter(docstring.splitlines())
    found: dict[str, list[str]] = {}
    names: list[str] = []
    for line in lines:
        if line.strip() == "Args:":
            break
    for line in lines:
        if line.strip() and not line.startswith("    "):
            break
        match = _NAMES.fullmatch(line[4:])
        if match:
            names = match.group(1).split(", ")
            found |= {name: [match.group(2)] for name in names}
        elif line.strip():
            for name in names:
                found[name].append(line.strip())
    return {name: " ".join(parts) for name, parts in found.items()}
