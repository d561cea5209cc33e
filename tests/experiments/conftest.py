import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from skimage import data

from tests.warm import run_module

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """Five photographs of three sizes: a number that neither 2 nor 3 processes divide."""
    path = tmp_path_factory.mktemp("images")
    crops = [(0, 0, 272, 280), (100, 40, 372, 320), (200, 100, 472, 380), (0, 200, 300, 460)]
    for number, (left, top, right, bottom) in enumerate(crops):
        image = Image.fromarray(data.astronaut()).crop((left, top, right, bottom))
        image.save(path / f"a{number}.png")
    Image.fromarray(data.coffee()[:264, :180]).save(path / "b.png")
    return path


# Those that need no weights.
METRICS = (
    *("psnr-rgb", "ms-ssim-rgb", "fd_effnet", "kd_effnet"),
    *("encoding_time", "decoding_time"),
)


class Runner:
    """Runs `python -m experiments.run` into a folder of its own."""

    def __init__(self, root: Path, images: Path) -> None:
        self.root, self.images = root, images

    def arguments(self, name: str, *overrides: str) -> list[str]:
        return [
            *("trainer=cpu", "logger=none"),
            *("datamodule=folder", f"datamodule.root={self.images}"),
            f"callbacks.evaluation.metrics=[{','.join(METRICS)}]",
            f"hydra.run.dir={self.root / name}",
            *overrides,
        ]

    def run(
        self, name: str, *overrides: str, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """The finished process."""
        done = run_module("experiments.run", *self.arguments(name, *overrides))
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def __call__(self, name: str, *overrides: str) -> tuple[dict[str, Any], str]:
        """The curve, and what was printed."""
        done = self.run(name, *overrides)
        return json.loads((self.root / name / "curve.json").read_text()), done.stdout + done.stderr


@pytest.fixture(scope="module")
def runner(folder, tmp_path_factory) -> Runner:
    return Runner(tmp_path_factory.mktemp("runs"), folder)
