"""Bits per pixel without the container's header and checksum, as in some papers."""

from diffcodec.metrics.metric import Coding, CodingMetric


def payload_bits_per_pixel(coding: Coding) -> float | None:
    """8 * length of the codec's own sections / (H * W), with the original H and W."""
    if coding.num_payload_bytes is None:
        return None
    return 8 * coding.num_payload_bytes / (coding.height * coding.width)


METRIC = CodingMetric(
    "bpp-payload",
    "bits per pixel without header",
    kind="rate",
    order=2,
    read=payload_bits_per_pixel,
)
