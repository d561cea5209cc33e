"""Bits per pixel of the whole stream, including the header."""

from diffcodec.metrics.metric import Coding, CodingMetric


def bits_per_pixel(coding: Coding) -> float | None:
    """8 * length of the stream / (H * W), with the original H and W."""
    if coding.num_bytes is None:
        return None
    return 8 * coding.num_bytes / (coding.height * coding.width)


METRIC = CodingMetric("bpp", "bits per pixel", kind="rate", order=1, read=bits_per_pixel)
