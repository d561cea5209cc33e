"""Decompress a stream into a PNG.

    python -m experiments.decompress INPUT OUTPUT codec=… [point=…] [key=value …]

The codec and its weights must be those that compressed it. `point=` is for codecs whose decoder
does something else at each operating point; the default is the first.
"""

import sys
from pathlib import Path

from omegaconf import DictConfig

from diffcodec.points import find_points
from experiments.build import build_coder
from experiments.cli import file_command


def decompress(source: Path, target: Path, cfg: DictConfig) -> str:
    """Write the picture of a stream; returns a line about it."""
    from torchvision.transforms.v2.functional import to_pil_image

    from diffcodec.codec import to_uint8

    stream = source.read_bytes()
    codec = build_coder(cfg)
    codec.select(find_points(codec.points, cfg.point)[0])
    (x_hat,) = codec.decompress([stream])
    image = to_pil_image(to_uint8(x_hat))
    image.save(target, format="PNG")
    return f"{target}: {image.width}x{image.height}"


if __name__ == "__main__":
    file_command(decompress, sys.argv[1:], __doc__)
