"""Noise strengths: the quantized levels, the search for a level, and files of strengths."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from diffcodec.sdedit.presets import Preset
from diffcodec.weights.local_files import local_path

NUM_LEVELS = 256
LOWEST, HIGHEST = 0.005, 4.0
"""Range of the levels above 0, in the prior's space; neighbouring levels differ by 2.7%."""

AUTO, PERCEPTUAL, PER_IMAGE = "auto", "perceptual", "per_image"
RULES = (AUTO, PERCEPTUAL)
"""Rules that find strengths on calibration images, before decoding."""

_COARSE, _FINE = 16, (8, 4)  # index steps of `find_nearest`


def level_sigma(index: int) -> float:
    """Map an index 0 … 255 to sigma: 0, then `LOWEST` to `HIGHEST` in equal ratios."""
    if not 0 <= index < NUM_LEVELS:
        raise ValueError(f"strength index must be in 0 to {NUM_LEVELS - 1}, got {index}")
    if index == 0:
        return 0.0
    return LOWEST * (HIGHEST / LOWEST) ** ((index - 1) / (NUM_LEVELS - 2))


def find_index(excess: Callable[[float], float], max_sigma: float) -> int:
    """Find by bisection the highest index at which the error has at most doubled.

    The search uses the quantized levels, so that rounding differences between machines do not
    change the result.

    Args:
        excess: function of sigma > 0 that returns the `log2_growth` of the error; it must rise. It
            is 1 where the MSE has doubled, the upper bound of the cost of perfect realism (Sec.
            3.1, Eq. 14).
        max_sigma: highest level to try.
    """
    low, high = 0, _top(max_sigma)
    while low < high:
        middle = (low + high + 1) // 2
        if excess(level_sigma(middle)) <= 1:
            low = middle
        else:
            high = middle - 1
    return low


def _top(max_sigma: float) -> int:
    """The highest index whose level is at most `max_sigma`."""
    return max(i for i in range(NUM_LEVELS) if level_sigma(i) <= max_sigma)


def num_trials(max_sigma: float) -> int:
    """Maximum number of levels that `find_index` tries."""
    return sum(level_sigma(i) <= max_sigma for i in range(1, NUM_LEVELS)).bit_length()


def find_nearest(distance: Callable[[float], float], max_sigma: float) -> int:
    """Find the index of the level with the lowest distance, to within 4 levels (11% of sigma).

    The search tries no noise and every 16th level, then neighbours of the best level. It finds the
    minimum of a unimodal function.

    Args:
        distance: function of sigma >= 0 to minimize.
        max_sigma: highest level to try.
    """
    top = _top(max_sigma)
    found = {i: distance(level_sigma(i)) for i in (0, *range(1, top + 1, _COARSE))}
    for width in _FINE:
        best = min(found, key=found.__getitem__)
        for index in (best - width, best + width):
            if 1 <= index <= top and index not in found:
                found[index] = distance(level_sigma(index))
    return min(found, key=found.__getitem__)


def num_perceptual_trials(max_sigma: float) -> int:
    """Maximum number of levels that `find_nearest` tries."""
    return 1 + len(range(1, _top(max_sigma) + 1, _COARSE)) + 2 * len(_FINE)


def log2_growth(mse: float, base_mse: float) -> float:
    """log2(mse / base_mse); infinite if the base is lossless, so that no noise is added."""
    if base_mse <= 0:
        return math.inf
    return math.log2(max(mse, 1e-12) / base_mse)


Strengths = dict[str, dict[str, float]]
"""Mapping of preset -> base operating point -> sigma."""

SHIPPED = {AUTO: "strengths.json", PERCEPTUAL: "strengths_perceptual.json"}
"""Files with the strengths that each rule finds for the shipped models."""


def shipped_strengths(made_for: Mapping[str, Any]) -> Strengths:
    """The shipped strengths that were calibrated for exactly these models and presets.

    Args:
        made_for: what the strengths depend on, see `write_strengths`.

    Returns:
        The strengths of matching presets by the same rule; empty if base or prior differ.
    """
    name = SHIPPED[made_for.get("rule", AUTO)]
    path = files("diffcodec.sdedit") / "weights" / name
    data = json.loads(path.read_text(encoding="utf-8"))
    known = data["made_for"]
    if (known["base"], known["prior"]) != (made_for["base"], made_for["prior"]):
        return {}
    return {
        preset: dict(points)
        for preset, points in data["strengths"].items()
        # A setting that is newer than the file has its default.
        if asdict(Preset(**known["presets"][preset])) == made_for["presets"].get(preset)
    }


def read_strengths(path: str) -> Strengths:
    """Read a file written by `write_strengths`.

    Raises:
        ValueError: the file cannot be read, or has another format.
    """
    try:
        data = json.loads(local_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"could not read strengths from {path!r}: {error}") from error
    if isinstance(data, Mapping):
        data = data.get("strengths", data)  # older files contain the strengths only
    return check_strengths(data, origin=repr(path))


def check_strengths(data: Any, *, origin: str) -> Strengths:
    """Validate strengths.

    Args:
        data: the data to check, of any type.
        origin: where the data come from, for the error message.

    Raises:
        ValueError: the data are not a mapping of preset -> base point -> sigma.
    """
    problem = f"{origin} is not a strengths file: expected {{preset: {{point: sigma}}}}"
    if not isinstance(data, Mapping):
        raise ValueError(problem)
    for points in data.values():
        if not isinstance(points, Mapping) or not all(
            isinstance(value, int | float) and 0 <= value < math.inf for value in points.values()
        ):
            raise ValueError(problem)
    return {name: {k: float(v) for k, v in points.items()} for name, points in data.items()}


def write_strengths(strengths: Strengths, path: Path, made_for: Mapping[str, Any]) -> None:
    """Write strengths as JSON, to be read by `codec.strength=FILE`.

    Args:
        strengths: the strengths.
        path: path of the file.
        made_for: what the strengths depend on: fingerprints of `base` and `prior`, the settings of
            the `presets`, and where used `reference` and `rule`.
    """
    data = {"made_for": dict(made_for), "strengths": strengths}
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
