"""Operating points of PerCo: rates, and what encoder and decoder can do at each."""

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
    """All combinations, in order of rate; a setting is one value or a list of them.

    Args:
        rates: the hyper-encoders that can be used.
        steps: of DDIM; None is the rate's own number.
        guidance: lambda_s.
        guided: what it is on: `text`, or `text_and_codes`.
        condition: `both`, `text` (no codes are sent) or `local` (no caption is sent).
        caption: is sent in place of the image's own; None is its own.
        num_samples: reconstructions of a stream; `sample` numbers them from 0 on.
        grid_steps: timesteps that can be sampled.

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
            raise ValueError(f"guidance on {name!r} is not there, choose from {', '.join(GUIDED)}")
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
