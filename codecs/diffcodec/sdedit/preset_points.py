"""Operating points of the enhancer: presets and settings at each point of the base codec."""

from collections.abc import Mapping, Sequence
from itertools import product

from diffcodec.points import Point, combine, listed, name_lines
from diffcodec.sdedit.presets import Preset
from diffcodec.sdedit.strength import PER_IMAGE, RULES

BASE = "base"


def build_points(
    base_points: Sequence[Point],
    presets: Mapping[str, Preset],
    *,
    strength: str | float | Sequence[str | float],
    blend: float | Sequence[float],
    show_base: bool,
) -> dict[str, tuple[Point, Point]]:
    """All operating points by name, each with its base point; the base's own points come last.

    A line is named by its preset and by the settings that were given as lists, as in
    `medium,strength=0.2`. Presets share the base's bytes, except with `per_image`, whose byte
    depends on the preset. A point has the base's settings and `preset` (None is the base
    reconstruction), `strength` (a noise level, `auto`, `perceptual` or `per_image`) and `blend`.

    Raises:
        ValueError: there is no preset, a preset is named `base`, a value is out of range,
            `per_image` is in a list with other strengths, or a list contains both rules.
    """
    if not presets:
        raise ValueError("the enhancer needs a preset: fast, medium or slow")
    if BASE in presets:
        raise ValueError(f"a preset cannot be called {BASE!r}: that is the base codec's own curve")
    strengths = [_strength(s) for s in listed(strength)]
    blends = [float(b) for b in listed(blend)]
    if PER_IMAGE in strengths and len(strengths) > 1:
        raise ValueError(f"strength={PER_IMAGE} changes the stream: it cannot be in a list")
    if {*RULES} <= {*strengths}:
        raise ValueError(
            f"strength={' and '.join(RULES)} cannot be in one list: run them separately"
        )
    if not all(0 <= b <= 1 for b in blends):
        raise ValueError(f"blend must be in [0, 1], got {blends}")
    options = combine(
        decoding={
            "strength": strengths[0] if isinstance(strength, str | int | float) else strengths,
            "blend": blends[0] if isinstance(blend, int | float) else blends,
        }
    )
    signalled = PER_IMAGE in strengths
    found = {}
    for preset, option, point in product(presets, options, base_points):
        line = ",".join(filter(None, (preset, option.series, point.series)))
        own = {"preset": preset, **option.decoding}
        enhanced = Point(
            f"{','.join(filter(None, (preset, option.series)))},{point.name}",
            rate=point.rate,
            encoding={**point.encoding, **(own if signalled else {})},
            decoding={**point.decoding, **({} if signalled else own)},
            series=line,
        )
        found[enhanced.name] = (enhanced, point)
    if show_base:
        for point in base_points:
            own = {"preset": None, "strength": 0.0, "blend": 1.0}
            plain = Point(
                f"{BASE},{point.name}",
                rate=point.rate,
                encoding={**point.encoding, **(own if signalled else {})},
                decoding={**point.decoding, **({} if signalled else own)},
                series=",".join(filter(None, (BASE, point.series))),
            )
            found[plain.name] = (plain, point)
    named = name_lines([point for point, _ in found.values()])
    bases = (base_point for _, base_point in found.values())
    return {point.name: (point, base) for point, base in zip(named, bases, strict=True)}


def _strength(value: str | float) -> str | float:
    if value in (*RULES, PER_IMAGE):
        return value
    try:
        sigma = float(value)
    except ValueError:
        raise ValueError(
            f"unknown strength {value!r}, choose from {', '.join(RULES)}, {PER_IMAGE}, a noise "
            "level, or a strengths file"
        ) from None
    if not 0 <= sigma < float("inf"):
        raise ValueError(f"strength must be at least 0, got {value}")
    return sigma
