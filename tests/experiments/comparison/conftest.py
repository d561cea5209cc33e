import csv
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffcodec.points import Point, combine
from diffcodec.results.curves import curve_from_json
from experiments.comparison.runs import Run
from tests.warm import run_module

ROOT = Path(__file__).parents[3]


@pytest.fixture
def make_run():
    """Makes a run as it would be read from a file."""

    def make(
        name: str = "codec",
        results: Mapping[str, Sequence[float | None]] | None = None,
        *,
        source: str = "a/curve.json",
        points: Sequence[Point] | None = None,
        codec: Mapping[str, Any] | None = None,
        **meta: Any,
    ) -> Run:
        results = results or {"bpp": [0.1, 0.2, 0.4], "psnr-rgb": [28.0, 30.0, 33.0]}
        data: dict[str, Any] = {"name": name, "results": results, "meta": meta}
        if codec is not None:
            data["meta"]["config"] = {"name": name, "fit": False, "codec": dict(codec)}
        if points is not None:
            data["meta"]["points"] = [point.to_json() for point in points]
        return Run(curve_from_json(json.loads(json.dumps(data)), source=source), source)

    return make


@pytest.fixture(scope="session")
def published(shared) -> Path:
    """Published curves on Kodak, as CompressAI keeps them."""
    return shared / "reference" / "rd" / "kodak"


@pytest.fixture(scope="session")
def outputs(tmp_path_factory) -> Path:
    """Runs of two codecs as `experiments.run` leaves them, with two points and two images each."""
    root = tmp_path_factory.mktemp("outputs")
    grid = np.arange(64)
    for shift, (codec, rates) in enumerate({"alpha": (0.2, 0.4), "beta": (0.25, 0.5)}.items()):
        folder = root / codec / "2026-01-01"
        settings = combine(rate={"quality": [1, 2]})
        points = [point.name for point in settings]
        rows = []
        for i, (point, rate) in enumerate(zip(points, rates, strict=True)):
            for index, name in enumerate(("one.png", "two.png")):
                original = np.stack(np.broadcast_arrays(*np.ix_(grid * 2, grid * 3)), -1)
                original = np.concatenate([original, np.full((64, 64, 1), 90 * index)], -1)
                for target, noise in (("original", 0), (point, 20 * (shift + 1) - 8 * i)):
                    path = (
                        folder / "reconstructions" / target / f"{index:04d}-{Path(name).stem}.png"
                    )
                    path.parent.mkdir(parents=True, exist_ok=True)
                    decoded = (original + noise).clip(0, 255).astype(np.uint8)
                    Image.fromarray(decoded).save(path)
                rows.append([point, index, name, rate * (1 + 0.1 * index), 30 + i])
        with (folder / "images.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["point", "index", "name", "bpp", "psnr-rgb"], *rows])
        curve = {
            "name": codec,
            "meta": {
                **{"dataset": "photos", "num_images": 2, "sizes": ["64x64"]},
                **{"points": [point.to_json() for point in settings]},
                **{"fid": "whole images", "num_patches": 2, "num_parameters": 10**6},
                "config": {
                    "name": codec,
                    "fit": False,
                    "codec": {"_target_": codec, "quality": [1, 2]},
                },
            },
            "results": {
                **{"bpp": list(rates), "bpp-payload": [r - 0.01 for r in rates]},
                **{
                    "psnr-rgb": [30.0 + shift, 33.0 + shift],
                    "fd_effnet": [0.2, 0.1 - 0.02 * shift],
                },
                **{"encoding_time": [0.1, 0.1], "decoding_time": [0.2, 0.2]},
            },
        }
        (folder / "curve.json").write_text(json.dumps(curve))
    return root


@pytest.fixture(scope="session")
def compared(outputs, tmp_path_factory) -> Path:
    """The folder of a comparison of those runs with a publication that says little of itself."""
    other = outputs / "other.json"
    results = {"bpp": [0.1, 0.3, 0.6], "psnr-rgb": [28.0, 32.0, 35.0]}
    other.write_text(json.dumps({"name": "<Other> & Co", "results": results}))
    folder = tmp_path_factory.mktemp("compared") / "comparison"
    done = compare(str(outputs / "*/**/curve.json"), str(other), "--output", str(folder))
    assert done.returncode == 0, done.stderr
    (folder / "stdout.txt").write_text(done.stdout)
    return folder


def compare(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m experiments.compare`."""
    return run_module("experiments.compare", *arguments)


@pytest.fixture(scope="session")
def run_compare():
    """Runs the command line."""
    return compare
