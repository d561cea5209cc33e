"""Overrides as text: quoted for Hydra's grammar, and with paths that work in any folder."""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf

from diffcodec.weights.local_files import is_there, local_path

_CONFIGS = Path(__file__).parent / "configs"
_PLAIN = re.compile(r"[\w./~+-]*", re.ASCII)  # characters that Hydra's grammar takes unquoted
# Keys whose value is a path even as a bare name. Values of other keys are paths if they have a
# separator, as in `./ddim`; a caption is never a path.
_PATHS = ("ckpt_path", "config", "index", "path", "repo", "root", "source", "strength", "weights")
_TEXTS = ("caption", "text", "name", "description")
_CHECKSUM = "#sha256="


def quoted(text: str) -> str:
    """Text as a value of an override, whatever its characters; plain paths stay unquoted."""
    if "/" in text and _PLAIN.fullmatch(text):
        return text
    return QuotedString(text=text.replace("${", "\\${"), quote=Quote.single).with_quotes()


def written(value: Any) -> str:
    """Plain data as a value of an override."""
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{written(entry)}' for key, entry in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(written(entry) for entry in value)}]"
    if isinstance(value, str):
        return quoted(value)
    return "null" if value is None else str(value).lower()


def text_value(text: str) -> str:
    """Text, possibly in Hydra's syntax, as a value of an override.

    Lists, mappings and interpolations are unchanged. Text that Hydra would read as a number, a
    boolean, null or several values is quoted.
    """
    try:
        parsed = OverridesParser.create().parse_override(f"key={text}")
        is_syntax = not parsed.is_sweep_override() and isinstance(parsed.value(), str | list | dict)
    except HydraException:
        is_syntax = False
    return text if is_syntax else quoted(text)


def quote_paths(overrides: Iterable[str]) -> list[str]:
    """Quote values that name an existing file, as typed: `weights=my model (1).pt`."""
    out = []
    for override in overrides:
        key, separator, value = override.partition("=")
        location = value.partition(_CHECKSUM)[0]
        special = separator and not _PLAIN.fullmatch(value)
        if special and not key.startswith("-") and is_there(local_path(location)):
            override = f"{key}={quoted(value)}"
        out.append(override)
    return out


def with_absolute_paths(overrides: Iterable[str]) -> list[str]:
    """Overrides for any working folder: existing paths become absolute and quoted."""
    return [_absolute(override) for override in quote_paths(overrides)]


def _absolute(override: str) -> str:
    key, separator, _ = override.partition("=")
    name = key.lstrip("+~").rpartition(".")[2]
    # The choice of a group (`codec/base=elic`) and a caption are not paths.
    if not separator or "/" in key or name in _TEXTS:
        return override
    try:
        value = OverridesParser.create().parse_override(override).value()
    except HydraException:
        return override
    changed = _resolved(value, bare=name in _PATHS or name.endswith("_weights"))
    return override if changed == value else f"{key}={written(changed)}"


def _resolved(value: Any, *, bare: bool) -> Any:
    if isinstance(value, list):
        return [_resolved(entry, bare=bare) for entry in value]
    if not isinstance(value, str) or not (bare or "/" in value):
        return value
    from diffcodec.weights.sources import is_public

    location, checksum, digits = value.partition(_CHECKSUM)
    path = local_path(location)
    if not location or is_public(value) or not is_there(path):
        return value
    return f"{path.resolve()}{checksum}{digits}"


def run_folder(overrides: Iterable[str], key: str = "hydra.run.dir") -> str | None:
    """The folder that `hydra.run.dir=` gives a run, or None."""
    given = [o for o in overrides if o.partition("=")[0] == key]
    return str(OverridesParser.create().parse_override(given[-1]).value()) if given else None


@cache
def _roots() -> frozenset[str]:
    """The first components of all config keys."""
    settings = OmegaConf.load(_CONFIGS / "config.yaml")
    groups = {path.name for path in _CONFIGS.iterdir() if path.is_dir()}
    return frozenset({*map(str, settings), *groups} - {"defaults"})


def is_override(argument: str) -> bool:
    """Whether an argument of a command line with paths and overrides is an override.

    `key=value` is one if the config has this key or a similar one; `results=1/a.png` is a path.
    """
    key, separator, _ = argument.partition("=")
    root = key.lstrip("+~").replace("/", ".").partition(".")[0]
    if not separator or is_there(Path(argument)):
        return False
    return root in _roots() or bool(get_close_matches(root, _roots(), n=1, cutoff=0.75))


def split_paths(arguments: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The paths and the overrides of a command line."""
    overrides = [argument for argument in arguments if is_override(argument)]
    return [Path(argument) for argument in arguments if argument not in overrides], overrides
