"""Compress an image file: the output file is the stream.

    python -m experiments.compress INPUT OUTPUT codec=… [point=…] [key=value …]

INPUT is any image that Pillow reads. `point=` chooses the operating point; the default is the
first. `ckpt_path=` gives a trained checkpoint.
"""

import sys
from pathlib import Path

from omegaconf import DictConfig

from diffcodec.points import find_points
from experiments.build import build_coder
from experiments.cli import file_command


def compress(source: Path, target: Path, cfg: DictConfig) -> str:
    """Write the stream of an image; returns a line about it."""
    from torchvision.transforms.v2.functional import pil_to_tensor

    from datamodules.files import read_rgb

    image = read_rgb(source)
    codec = build_coder(cfg)
    codec.select(find_points(codec.points, cfg.point)[0])
    (stream,) = codec.compress(pil_to_tensor(image)[None].float().div(255))
    target.write_bytes(stream)
    bpp = 8 * len(stream) / (image.width * image.height)
    return f"{target}: {len(stream)} bytes, {bpp:.4f} bpp at {codec.point.name}"


if __name__ == "__main__":
    file_command(compress, sys.argv[1:], __doc__)
