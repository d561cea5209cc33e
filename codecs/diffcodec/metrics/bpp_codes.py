"""Bits per pixel of the codes, for codecs that also send a caption (PerCo, Table 2)."""

from diffcodec.metrics.bpp_text import part_bits_per_pixel
from diffcodec.metrics.metric import CodingMetric

METRIC = CodingMetric(
    "bpp-codes",
    "bits per pixel of the codes",
    kind="rate",
    order=4,
    read=lambda coding: part_bits_per_pixel(coding, "codes"),
    of_all=False,
)
