"""Bits per pixel of the caption that is sent with an image (PerCo, App. A)."""

from diffcodec.metrics.metric import Coding, CodingMetric


def part_bits_per_pixel(coding: Coding, part: str) -> float | None:
    """8 * length of a part / (H * W), with the original H and W; None without such a part."""
    num_bytes = coding.num_part_bytes.get(part)
    return None if num_bytes is None else 8 * num_bytes / (coding.height * coding.width)


METRIC = CodingMetric(
    "bpp-text",
    "bits per pixel of the caption",
    kind="rate",
    order=3,
    read=lambda coding: part_bits_per_pixel(coding, "text"),
    of_all=False,
)
