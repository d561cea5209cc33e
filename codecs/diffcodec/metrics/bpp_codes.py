"""Bits per pixel of the codes of an image that is sent with a caption (PerCo, Table 2)."""

from diffcodec.metrics.metric import Coding, CodingMetric

PART = "codes"


def part_bits_per_pixel(coding: Coding) -> float | None:
    """8 * length of that part / (H * W), with the original H and W; None where codecs have none."""
    num_bytes = coding.num_part_bytes.get(PART)
    return None if num_bytes is None else 8 * num_bytes / (coding.height * coding.width)


METRIC = CodingMetric(
    "bpp-codes",
    "bits per pixel of the codes",
    kind="rate",
    order=4,
    read=part_bits_per_pixel,
    of_all=False,
)
