"""Compress image files into streams.

    python -m experiments.compress INPUT OUTPUT codec=… [point=…] [key=value …]
    python -m experiments.compress INPUT… FOLDER codec=… [point=…] [key=value …]

INPUT is an image that Pillow reads, or a folder of images. One image is written to the file OUTPUT.
Several images, or a folder, are written to FOLDER with a `codec.yaml`, which is all that
`experiments.decompress FOLDER` needs. `point=` chooses the operating point; the default is the
first. `ckpt_path=` loads a trained checkpoint.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from experiments.file_commands import Job, file_command, find_inputs, write_codec_file

SUFFIX = ".bin"


def plan(inputs: Sequence[Path], output: Path) -> list[Job]:
    """Image files -> stream files.

    Raises:
        ValueError: an input is missing, there is no image, or two outputs would have one name.
    """
    from datamodules.files import list_images

    return find_inputs(inputs, output, list_images, SUFFIX)


def compress(jobs: Sequence[Job], cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Write the stream of every image; returns one line per image."""
    from rich.progress import track
    from torchvision.transforms.v2.functional import pil_to_tensor

    from datamodules.files import image_size, read_rgb
    from diffcodec.points import find_points
    from experiments.build import build_coder

    codec = build_coder(cfg)
    point = find_points(codec.points, cfg.point)[0]
    for job in jobs:
        if problem := codec.size_problem(*image_size(job.source)):
            raise ValueError(f"{job.source}: {problem}")
    lines = []
    for job in track(jobs, "compressing", disable=len(jobs) < 2, transient=True):
        image = read_rgb(job.source)
        (stream,) = codec.compress(pil_to_tensor(image)[None].float().div_(255), point)
        job.target.parent.mkdir(parents=True, exist_ok=True)
        job.target.write_bytes(stream)
        bpp = 8 * len(stream) / (image.width * image.height)
        lines.append(f"{job.target}: {len(stream)} bytes, {bpp:.4f} bpp at {point.name}")
    for folder in {job.folder for job in jobs if job.folder is not None}:
        lines.append(str(write_codec_file(folder, overrides)))
    return lines


if __name__ == "__main__":
    file_command(plan, compress, sys.argv[1:], __doc__)
