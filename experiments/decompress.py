"""Decompress streams into PNG files.

    python -m experiments.decompress INPUT OUTPUT codec=… [point=…] [key=value …]
    python -m experiments.decompress FOLDER OUTPUT [key=value …]

INPUT is one stream. FOLDER was written by `experiments.compress`: its `codec.yaml` names the codec,
and OUTPUT is a folder. Codec and weights must be those of the encoder. `point=` is for codecs whose
decoding settings differ between operating points; the default is the encoder's point, else the
first.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from experiments.compress import SUFFIX
from experiments.file_commands import Job, file_command, find_inputs


def plan(inputs: Sequence[Path], output: Path) -> list[Job]:
    """Stream files -> image files.

    Raises:
        ValueError: an input is missing, there is no stream, or two outputs would have one name.
    """

    def list_streams(folder: Path) -> list[Path]:
        found = sorted(folder.rglob(f"*{SUFFIX}"))
        if not found:
            raise ValueError(f"no stream (*{SUFFIX}) below {folder}")
        return found

    return find_inputs(inputs, output, list_streams, ".png")


def decompress(jobs: Sequence[Job], cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Write the image of every stream; returns one line per image."""
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
