"""Operating points of PerCo: rates, and what encoder and decoder can do at each."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from diffcodec.perco.rates import GRID_STEPS, Rate

CONDITIONS = ("both", "text", "local")


@dataclass(frozen=True)
class Setting:
    """One operating point.

    Attributes:
        rate: the hyper-encoder that is used.
        steps: of DDIM; None is the rate's own number.
        guidance: lambda_s, on the text.
        condition: `both`, `text` (no codes are sent) or `local` (no caption is sent).
        caption: is sent in place of the image's own; None is its own.
        sample: which of the reconstructions of a stream, from 0 on.
    """

    rate: Rate
    steps: int | None = None
    guidance: float = 3.0
    condition: str = "both"
    caption: str | None = None
    sample: int = 0


def build_settings(
    rates: Sequence[Rate],
    *,
    steps: int | Sequence[int] | None = None,
    guidance: float | Sequence[float] = 3.0,
    condition: str | Sequence[str] = "both",
    caption: str | Sequence[str | None] | None = None,
    num_samples: int = 1,
    grid_steps: int = GRID_STEPS,
) -> dict[str, Setting]:
    """All combinations, by name, in order of rate.

    A name is the rate's, followed by those settings of which a list was given, as in
    `8x8/256,steps=5,guidance=3`.

    Raises:
        ValueError: a value is out of range.
    """
    all_steps = _listed(steps, int)
    scales = [float(scale) for scale in _listed(guidance, int | float)]
    conditions = _listed(condition, str)
    captions = _listed(caption, str)
    for count in all_steps:
        if count is not None and not 1 <= count <= grid_steps:
            raise ValueError(f"steps must be in 1 to {grid_steps}, got {count}")
    for name in conditions:
        if name not in CONDITIONS:
            raise ValueError(f"unknown condition {name!r}, choose from {', '.join(CONDITIONS)}")
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    axes = {
        "steps": all_steps,
        "guidance": scales,
        "condition": conditions,
        "caption": captions,
        "sample": list(range(num_samples)),
    }
    given = {"steps": steps, "guidance": guidance, "condition": condition, "caption": caption}
    named = [k for k, v in given.items() if not isinstance(v, str | int | float | None)]
    if num_samples > 1:
        named.append("sample")
    settings = {}
    for rate, *values in product(sorted(rates, key=lambda rate: rate.bpp), *axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        name = ",".join([rate.name, *(f"{key}={_shown(chosen[key])}" for key in named)])
        if name in settings:
            raise ValueError(f"operating point {name!r} is given twice")
        settings[name] = Setting(rate, **chosen)
    return settings


def _listed(value, kind):  # type: ignore[no-untyped-def]
    """One value or several -> a list."""
    values = [value] if value is None or isinstance(value, kind) else list(value)
    if not values:
        raise ValueError("a list of settings is empty: a codec needs at least one operating point")
    return values


def _shown(value: object) -> str:
    if value is None:
        return "own"
    return f"{value:g}" if isinstance(value, float) else str(value)
