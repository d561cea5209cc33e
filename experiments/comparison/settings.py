"""The settings in which the configs of two runs differ."""

import json
from collections.abc import Mapping
from typing import Any

from experiments.comparison.runs import Run

# One model per rate has different weights per rate.
WEIGHTS = ("codec.weights", "ckpt_path")
# How a run trains. Where it ran and what it logged changes no reconstruction.
TRAINING = ("seed", "trainer.max_steps", "trainer.max_epochs", "trainer.precision", "datamodule")
NOT_TRAINING = ("datamodule.root", "datamodule.test", "datamodule.val", "datamodule.name")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested config -> dotted key -> value as text."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = shown(value)
    return flat


def shown(value: Any) -> str:
    """A config value as typed on a command line."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "[" + ",".join(shown(entry) for entry in value) + "]"
    return json.dumps(value)


def identity(run: Run) -> dict[str, str]:
    """The settings of a run that change its reconstructions, except its weights.

    Settings that operating points state are excluded: `gamma=0` of `[0, 0.8]` equals that of `[0]`.
    """
    flat = flatten(run.config)
    stated = {key for point in run.curve.points for key in point.settings}
    kept = {
        k: v
        for k, v in flat.items()
        if k.startswith("codec.") and k.rpartition(".")[2] not in stated
    }
    kept = {k: v for k, v in kept.items() if k not in WEIGHTS}
    if flat.get("fit") == "true":
        kept |= {
            k: v for k, v in flat.items() if _below(k, TRAINING) and not _below(k, NOT_TRAINING)
        }
    return kept


def weights(run: Run) -> dict[str, str]:
    """The sources of a run's weights."""
    flat = flatten(run.config)
    return {key: flat[key] for key in WEIGHTS if flat.get(key, "null") != "null"}


def _below(key: str, roots: tuple[str, ...]) -> bool:
    return any(key == root or key.startswith(f"{root}.") for root in roots)
