"""Operating points of PerCo: rates, and settings of the encoder and the decoder."""

from collections.abc import Sequence

from diffcodec.perco.rates import GRID_STEPS, Rate
from diffcodec.points import Point, combine, listed

CONDITIONS = ("both", "text", "local")
GUIDED = ("text", "text_and_codes")


def build_points(
    rates: Sequence[Rate],
    *,
    steps: int | Sequence[int] | None = None,
    guidance: float | Sequence[float] = 3.0,
    guided: str | Sequence[str] = "text",
    condition: str | Sequence[str] = "both",
    caption: str | Sequence[str | None] | None = None,
    num_samples: int = 1,
    grid_steps: int = GRID_STEPS,
) -> tuple[Point, ...]:
    """All combinations of settings, in order of rate; a setting is one value or a list.

    Args:
        rates: rates of the available hyper-encoders.
        steps: number of sampling steps; None selects the rate's default.
        guidance: guidance scale lambda_s.
        guided: conditions that guidance applies to: `text`, or `text_and_codes`.
        condition: `both`, `text` (send no codes) or `local` (send no caption).
        caption: caption to send in place of the image's own; None sends its own.
        num_samples: number of reconstructions per stream; the setting `sample` counts from 0.
        grid_steps: number of timesteps that can be sampled.

    Raises:
        ValueError: a value is out of range.
    """
    for count in listed(steps):
        if count is not None and not 1 <= count <= grid_steps:
            raise ValueError(f"steps must be in 1 to {grid_steps}, got {count}")
    for name in listed(condition):
        if name not in CONDITIONS:
            raise ValueError(f"unknown condition {name!r}, choose from {', '.join(CONDITIONS)}")
    for name in listed(guided):
        if name not in GUIDED:
            raise ValueError(f"unknown guided {name!r}, choose from {', '.join(GUIDED)}")
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    scales = [float(scale) for scale in listed(guidance)]
    return combine(
        rate={"rate": [rate.name for rate in sorted(rates, key=lambda rate: rate.bpp)]},
        encoding={"condition": condition, "caption": caption},
        decoding={
            "steps": steps,
            "guidance": scales[0] if isinstance(guidance, int | float) else scales,
            "guided": guided,
            "sample": list(range(num_samples)) if num_samples > 1 else 0,
        },
    )
