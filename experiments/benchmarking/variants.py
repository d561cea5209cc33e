"""Variants of one config that are measured in one call."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from experiments.constructors import keys_of


def build_variants(
    cfg: DictConfig, variants: Mapping[str, Sequence[str] | None]
) -> tuple[dict[str, DictConfig], dict[str, str]]:
    """One config per variant, and the variants that this codec does not support, with the reason.

    Args:
        cfg: the base config.
        variants: name -> overrides, as on a command line; None: skip.

    Raises:
        ValueError: an override is malformed.
    """
    made, left_out = {}, {}
    for name, overrides in variants.items():
        if overrides is None:
            continue
        changes = dict(map(_parse, overrides))
        missing = [key for key in changes if not _has(cfg, key)]
        if missing:
            left_out[name] = f"codec={cfg.name} has no {', '.join(missing)}"
            continue
        changed = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
        assert isinstance(changed, DictConfig)
        for key, value in changes.items():
            OmegaConf.update(changed, key, value, force_add=True)
        made[name] = changed
    return made, left_out


def parse_size(size: str | int) -> tuple[int, int]:
    """`256` or `512x768` -> height and width in pixels.

    Raises:
        ValueError: it has another form.
    """
    parts = str(size).split("x")
    if not all(part.isdigit() and int(part) for part in parts) or len(parts) > 2:
        raise ValueError(f"{size!r} is not a size: pass a side, such as 256, or HEIGHTxWIDTH")
    return int(parts[0]), int(parts[-1])


def _parse(text: str) -> tuple[str, Any]:
    override = OverridesParser.create().parse_overrides([text])[0]
    return override.key_or_group, override.value()


def _has(cfg: DictConfig, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    return isinstance(node, DictConfig) and name in keys_of(node)
