"""Decompress streams into PNGs.

    python -m experiments.decompress INPUT OUTPUT codec=… [point=…] [key=value …]
    python -m experiments.decompress FOLDER OUTPUT [key=value …]

INPUT is one stream, FOLDER what `experiments.compress` wrote several into: its `codec.yaml` says
which codec, and OUTPUT is a folder then. The codec and its weights must be those that compressed.
`point=` is for codecs whose decoder does something else at each operating point; the default is
that of the encoder, or else the first.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from experiments.compress import SUFFIX
from experiments.file_commands import Job, file_command, find_inputs


def plan(inputs: Sequence[Path], output: Path) -> list[Job]:
    """Which stream becomes which picture.

    Raises:
        ValueError: an input is missing, there is no stream, or two would share a name.
    """

    def list_streams(folder: Path) -> list[Path]:
        found = sorted(folder.rglob(f"*{SUFFIX}"))
        if not found:
            raise ValueError(f"no stream (*{SUFFIX}) below {folder}")
        return found

    return find_inputs(inputs, output, list_streams, ".png")


def decompress(jobs: Sequence[Job], cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Write the picture of every stream; returns a line about each."""
    from rich.progress import track
    from torchvision.transforms.v2.functional import to_pil_image

    from diffcodec.codec import BitstreamError, to_uint8
    from diffcodec.points import find_points
    from experiments.build import build_coder

    codec = build_coder(cfg)
    point = find_points(codec.points, cfg.point)[0]
    lines = []
    for job in track(jobs, "decompressing", disable=len(jobs) < 2, transient=True):
        try:
            (x_hat,) = codec.decompress([job.source.read_bytes()], point)
        except BitstreamError as error:
            raise BitstreamError(f"{job.source}: {error}") from error
        image = to_pil_image(to_uint8(x_hat))
        job.target.parent.mkdir(parents=True, exist_ok=True)
        image.save(job.target, format="PNG")
        lines.append(f"{job.target}: {image.width}x{image.height}")
    return lines


if __name__ == "__main__":
    file_command(plan, decompress, sys.argv[1:], __doc__)
