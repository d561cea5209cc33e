"""Operating points of the enhancer: what the decoder does, at each point of the base codec."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from diffcodec.sdedit.presets import Preset
from diffcodec.sdedit.strength import AUTO, PER_IMAGE

BASE = "base"


@dataclass(frozen=True)
class Setting:
    """One operating point.

    Attributes:
        series: the line of the figure it belongs to.
        base_point: operating point of the base codec.
        preset: its name; None is the base's own picture.
        strength: a noise level, `auto` or `per_image`.
        blend: share of the enhanced picture in what is decoded.
    """

    series: str
    base_point: str
    preset: str | None = None
    strength: float | str = 0.0
    blend: float = 1.0


def build_settings(
    base_points: Sequence[str],
    presets: Mapping[str, Preset],
    *,
    strength: str | float | Sequence[str | float],
    blend: float | Sequence[float],
    show_base: bool,
) -> dict[str, Setting]:
    """All points by name, series after series, the base's own last.

    A series is a preset, followed by those settings of which a list was given, as in
    `medium,strength=0.2`; a point's name is its series and the base's point.

    Raises:
        ValueError: there is no preset, one is called `base`, a value is out of range, or strengths
            that are signalled are mixed with others.
    """
    if not presets:
        raise ValueError("the enhancer needs a preset: fast, medium or slow")
    if BASE in presets:
        raise ValueError(f"a preset cannot be called {BASE!r}: that is the base codec's own curve")
    strengths = [_strength(s) for s in _listed(strength)]
    blends = [float(b) for b in _listed(blend)]
    if PER_IMAGE in strengths and len(strengths) > 1:
        raise ValueError(f"strength={PER_IMAGE} changes the stream: it cannot be in a list")
    if not all(0 <= b <= 1 for b in blends):
        raise ValueError(f"blend must be in [0, 1], got {blends}")
    settings = {}
    for preset, s, b in product(presets, strengths, blends):
        parts = [preset]
        if not isinstance(strength, str | int | float):
            parts.append(f"strength={s if isinstance(s, str) else format(s, 'g')}")
        if not isinstance(blend, int | float):
            parts.append(f"blend={b:g}")
        series = ",".join(parts)
        for point in base_points:
            settings[f"{series},{point}"] = Setting(series, point, preset, s, b)
    if show_base:
        for point in base_points:
            settings[f"{BASE},{point}"] = Setting(BASE, point)
    return settings


def _strength(value: str | float) -> str | float:
    if value in (AUTO, PER_IMAGE):
        return value
    try:
        sigma = float(value)
    except ValueError:
        raise ValueError(
            f"unknown strength {value!r}, choose from {AUTO}, {PER_IMAGE}, a noise level, or a "
            "file of strengths that a run wrote"
        ) from None
    if not 0 <= sigma < float("inf"):
        raise ValueError(f"strength must be at least 0, got {value}")
    return sigma


def _listed(value):  # type: ignore[no-untyped-def]
    """One value or several -> a list."""
    values = [value] if isinstance(value, str | int | float) else list(value)
    if not values:
        raise ValueError("a list of settings is empty: a codec needs at least one operating point")
    return values
