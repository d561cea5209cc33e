"""How much noise: levels that a byte can name, and the one that doubles the error."""

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
"""Of the levels above 0, in the prior's space; neighbours differ by 2.7%."""

AUTO, PERCEPTUAL, PER_IMAGE = "auto", "perceptual", "per_image"
RULES = (AUTO, PERCEPTUAL)
"""Strengths that are found on calibration images, before anything is decoded."""

_COARSE, _FINE = 16, (8, 4)  # distances of the levels that `find_nearest` tries


def level_sigma(index: int) -> float:
    """Index 0 … 255 -> sigma: 0, then from `LOWEST` to `HIGHEST` in equal ratios."""
    if not 0 <= index < NUM_LEVELS:
        raise ValueError(f"a strength's index must be in 0 to {NUM_LEVELS - 1}, got {index}")
    if index == 0:
        return 0.0
    return LOWEST * (HIGHEST / LOWEST) ** ((index - 1) / (NUM_LEVELS - 2))


def find_index(excess: Callable[[float], float], max_sigma: float) -> int:
    """The highest index at which the error has not more than doubled, by bisection.

    On this grid, so that machines which round otherwise find the same.

    Args:
        excess: sigma > 0 -> `log2_growth` of the error, rising: 1 where the MSE has doubled, which
            is what perfect realism costs at most (Sec. 3.1, Eq. 14).
        max_sigma: levels above are not tried.
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
    """The highest index whose level a prior knows."""
    return max(i for i in range(NUM_LEVELS) if level_sigma(i) <= max_sigma)


def num_trials(max_sigma: float) -> int:
    """How many levels `find_index` tries at most."""
    return sum(level_sigma(i) <= max_sigma for i in range(1, NUM_LEVELS)).bit_length()


def find_nearest(distance: Callable[[float], float], max_sigma: float) -> int:
    """The index of the level with the least distance, to four levels or 11% of sigma.

    First no noise and every 16th level, then the neighbours of the best. The least of a function
    that falls and rises once is found.

    Args:
        distance: sigma >= 0 -> what is to be least.
        max_sigma: levels above are not tried.
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
    """How many levels `find_nearest` tries at most."""
    return 1 + len(range(1, _top(max_sigma) + 1, _COARSE)) + 2 * len(_FINE)


def log2_growth(mse: float, base_mse: float) -> float:
    """log2(mse / base_mse); infinite where the base makes no error, so that no noise is added."""
    if base_mse <= 0:
        return math.inf
    return math.log2(max(mse, 1e-12) / base_mse)


Strengths = dict[str, dict[str, float]]
"""Preset -> operating point of the base -> sigma."""

SHIPPED = "strengths.json"
"""Beside the small prior's weights: what `strength=auto` finds for what ships."""


def shipped_strengths(made_for: Mapping[str, Any]) -> Strengths:
    """The strengths that ship, if they were found for exactly this; else none.

    Args:
        made_for: what strengths depend on, as `write_strengths` wrote it.
    """
    path = files("diffcodec.sdedit") / "weights" / SHIPPED
    data = json.loads(path.read_text(encoding="utf-8"))
    known = data["made_for"]
    if "rule" in made_for or (known["base"], known["prior"]) != (
        made_for["base"],
        made_for["prior"],
    ):
        return {}
    return {
        preset: dict(points)
        for preset, points in data["strengths"].items()
        # A preset that was written before it had a setting has its default.
        if asdict(Preset(**known["presets"][preset])) == made_for["presets"].get(preset)
    }


def read_strengths(path: str) -> Strengths:
    """Read what `write_strengths` wrote.

    Raises:
        ValueError: there is no such file, or it holds something else.
    """
    try:
        data = json.loads(local_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"could not read strengths from {path!r}: {error}") from error
    if isinstance(data, Mapping):
        data = data.get("strengths", data)  # files of before held nothing else
    return check_strengths(data, origin=repr(path))


def check_strengths(data: Any, *, origin: str) -> Strengths:
    """Strengths as they were read from somewhere.

    Raises:
        ValueError: they are something else; the message names the origin.
    """
    problem = f"{origin} holds no strengths: expected {{preset: {{point: sigma}}}}"
    if not isinstance(data, Mapping):
        raise ValueError(problem)
    for points in data.values():
        if not isinstance(points, Mapping) or not all(
            isinstance(value, int | float) and 0 <= value < math.inf for value in points.values()
        ):
            raise ValueError(problem)
    return {name: {k: float(v) for k, v in points.items()} for name, points in data.items()}


def write_strengths(strengths: Strengths, path: Path, made_for: Mapping[str, Any]) -> None:
    """Write them as JSON, for `codec.strength=FILE`.

    Args:
        strengths: what was found.
        path: of the file.
        made_for: what they depend on: fingerprints of `base` and `prior`, and the settings of the
            `presets`.
    """
    data = {"made_for": dict(made_for), "strengths": strengths}
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
