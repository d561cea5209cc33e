"""JPEG, WebP, JPEG 2000 and AVIF by Pillow; the stream contains the plain file."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import features
from torch import Tensor

from diffcodec.base.images import read_untrusted, to_pil
from diffcodec.codec import Codec, Decoded
from diffcodec.points import Point, Setting, combine, listed


@dataclass(frozen=True)
class Format:
    """Settings and limits of one of Pillow's formats.

    Attributes:
        parameter: name of the setting that varies between operating points.
        low, high: range of that setting.
        max_side: largest side in pixels that Pillow both encodes and decodes. 65500 is the limit of
            libjpeg, 16383 that of the format WebP, 65536 that of this project's container, and
            32768 that of libavif's decoder.
        rising: whether the rate increases with the parameter.
    """

    parameter: str
    low: int
    high: int
    max_side: int
    rising: bool = True

    def save_options(self, value: Setting) -> dict[str, Any]:
        """Arguments of Pillow's `save` for an operating point; all others keep their defaults."""
        if self.parameter == "ratio":
            return {"quality_mode": "rates", "quality_layers": [value], "irreversible": True}
        return {"quality": value}


FORMATS = {
    "JPEG": Format("quality", 1, 95, 65500),
    "WEBP": Format("quality", 0, 100, 16383),
    "JPEG2000": Format("ratio", 1, 1000, 65536, rising=False),
    "AVIF": Format("quality", 0, 100, 32768),
}
_FEATURES = {"JPEG": "jpg", "WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif"}


class PillowCodec(Codec):
    """A classical image format, written with Pillow's defaults.

    Args:
        format: `JPEG`, `WEBP`, `JPEG2000` or `AVIF`.
        quality: operating points of all but JPEG 2000: one or several of the format's qualities.
        ratio: operating points of JPEG 2000: one or several compression ratios relative to 24-bit
            RGB (irreversible wavelet, one layer).

    Raises:
        ValueError: the format is unknown or missing in this build of Pillow, it takes the other
            parameter, or a value is out of range.
    """

    def __init__(
        self,
        format: str,
        *,
        quality: int | Sequence[int] | None = None,
        ratio: int | Sequence[int] | None = None,
    ) -> None:
        if format not in FORMATS:
            raise ValueError(f"unknown format {format!r}, choose from {sorted(FORMATS)}")
        spec = FORMATS[format]
        if not features.check(_FEATURES[format]):
            raise ValueError(f"this build of Pillow cannot write {format}: install another Pillow")
        given = {"quality": quality, "ratio": ratio}
        chosen = {key: value for key, value in given.items() if value is not None}
        if [*chosen] != [spec.parameter]:
            raise ValueError(f"{format} needs {spec.parameter} only, got {chosen}")
        values = listed(chosen[spec.parameter])
        outside = [v for v in values if not spec.low <= v <= spec.high]
        if outside:
            raise ValueError(
                f"{format} {spec.parameter} {outside} is outside {spec.low} to {spec.high}"
            )
        ordered = sorted(values, reverse=not spec.rising)
        super().__init__(combine(rate={spec.parameter: ordered}))
        self._format = format
        self._spec = spec

    def format_config(self) -> dict[str, Any]:
        return {"format": self._format}

    def size_problem(self, height: int, width: int) -> str | None:
        if max(height, width) > self._spec.max_side:
            return (
                f"{self._format} supports at most {self._spec.max_side} pixels per side, "
                f"got {height}x{width}"
            )
        return super().size_problem(height, width)

    def encode(self, x: Tensor, point: Point) -> list[list[bytes]]:
        if problem := self.size_problem(*x.shape[-2:]):
            raise ValueError(problem)
        options = self._spec.save_options(point.rate[self._spec.parameter])
        payloads = []
        for image in x:
            file = io.BytesIO()
            to_pil(image).save(file, format=self._format, **options)
            payloads.append([file.getvalue()])
        return payloads

    def decode(
        self,
        payloads: list[list[bytes]],
        height: int,
        width: int,
        seeds: list[int],
        point: Point,
    ) -> Decoded:
        images = [
            read_untrusted(io.BytesIO(file), self._format, height, width) for (file,) in payloads
        ]
        return Decoded(torch.stack(images).to(self.device))
