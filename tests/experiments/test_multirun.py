"""Several runs by one command, here, through submitit and on several processes."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.warm import run_module

ROOT = Path(__file__).parents[2]


def multirun(runner, sweep: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    arguments = runner.arguments("unused", f"hydra.sweep.dir={sweep}", *overrides)
    arguments = [part for part in arguments if not part.startswith("hydra.run.dir=")]
    return run_module("experiments.run", "-m", *arguments)


def curves(sweep: Path) -> dict[str, dict]:
    found = (json.loads(path.read_text()) for path in sweep.rglob("curve.json"))
    return {curve["name"]: curve for curve in found}


def test_one_curve_per_codec_and_a_table_although_one_fails(runner, tmp_path):
    done = multirun(runner, tmp_path, "codec=webp,jpeg,avif", "++codec.quality=[80,97]")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [
        *("0-webp", "1-jpeg", "2-avif"),
    ]
    assert set(curves(tmp_path)) == {"webp", "avif"}
    for text in ("webp (anchor)", "BD-PSNR", "experiments.compare"):
        assert text in done.stdout
    assert done.returncode != 0
    assert "error: 1 of the runs failed" in done.stderr
    assert "1-jpeg: JPEG quality [97] is outside 1 to 95" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow  # whose own processes import everything anew
def test_submitit_starts_the_runs(runner, tmp_path):
    done = multirun(runner, tmp_path, "codec=jpeg", "hydra/launcher=submitit_local")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(curves(tmp_path)) == {"jpeg"}
    assert "jpeg (anchor)" in done.stdout


def test_several_processes_do_not_run_the_sweep_again(runner, tmp_path):
    options = ("trainer=ddp_cpu", "threads=1", "codec=jpeg", "codec.quality=[10,50]")
    done = multirun(runner, tmp_path, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    (curve,) = curves(tmp_path).values()
    assert curve["meta"]["world_size"] == 2
    assert curve["meta"]["num_images"] == 5
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["0-jpeg"]
