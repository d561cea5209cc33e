"""The files of docs/adding_a_codec.md, written into a copy of the project and run."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from skimage import data
from skimage.io import imsave

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "adding_a_codec.md"
COPIED = ("codecs", "datamodules", "callbacks", "experiments", "tests", "pyproject.toml")
FILE = re.compile(r'^```\w+ title="([^"]+)"\n(.*?)^```$', re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """The project with the page's files in it."""
    folder = tmp_path_factory.mktemp("project")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder)
    found = FILE.findall(PAGE.read_text())
    assert len(found) == 8
    for name, text in found:
        path = folder / name
        assert not path.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def run(project: Path, *command: str) -> str:
    paths = os.pathsep.join((str(project), str(project / "codecs")))
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=project,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_the_contract_holds(project):
    names = "posterize or small_hyperprior"
    options = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", names)
    told = run(project, "pytest", "tests/test_contract.py", *options)
    assert re.search(r"\d\d passed", told)
    assert "failed" not in told


def test_they_pass_the_linters(project):
    run(project, "ruff", "check", "codecs", "experiments")
    run(project, "ruff", "format", "--check", "codecs", "experiments")
    run(project, "mypy", "-p", "diffcodec.posterize", "-p", "diffcodec.small_hyperprior")


def test_a_run_measures_the_metric_on_the_data_set(project):
    (project / "photos").mkdir()
    imsave(project / "photos" / "astronaut.png", data.astronaut()[:200, :200])
    folder = project / "run"
    run(
        project,
        "experiments.run",
        *("codec=posterize", "datamodule=holiday", f"datamodule.root={project}", "logger=none"),
        *("callbacks.evaluation.metrics=[psnr-rgb,largest-error]", f"hydra.run.dir={folder}"),
    )
    results = json.loads((folder / "curve.json").read_text())["results"]
    assert results["bpp"] == sorted(results["bpp"])
    # Half a step of 3, 7 and 15, in 8 bits.
    assert results["largest-error"] == pytest.approx([1 / 6, 1 / 14, 1 / 30], abs=1 / 255)
    rows = list(csv.DictReader((folder / "images.csv").open()))
    assert [row["name"] for row in rows] == ["astronaut.png"] * 3


def test_the_learned_codec_trains(project):
    folder = project / "trained"
    run(
        project,
        "experiments.run",
        *("codec=small_hyperprior", "fit=true", "trainer.max_steps=2", "logger=none"),
        *("datamodule.batch_size=1", "codec.N=4", "codec.M=8", f"hydra.run.dir={folder}"),
        *("callbacks.evaluation.metrics=[psnr-rgb]",),
    )
    assert (folder / "model" / "config.json").is_file()
    assert json.loads((folder / "curve.json").read_text())["results"]["bpp"][0] > 0
