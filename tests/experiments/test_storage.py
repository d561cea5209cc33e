"""Disks that are full, folders that cannot be written, and readers that are gone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffcodec.results.curves import write_json, write_rows
from tests.warm import run_module

ROOT = Path(__file__).parents[2]


def arguments(folder, *overrides):
    multirun = [override for override in overrides if override == "-m"]
    return [
        *("experiments.run", *multirun, "logger=none", "trainer=cpu", "datamodule=folder"),
        *(f"datamodule.root={folder}", "callbacks.evaluation.metrics=[psnr-rgb]"),
        *overrides[len(multirun) :],
    ]


@pytest.mark.parametrize("write", [write_json, write_rows])
def test_a_file_stays_whole_where_the_disk_is_full(tmp_path, write):
    path = tmp_path / "file"
    write([{"a": 1}], path)
    before = path.read_bytes()
    (tmp_path / "file.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*/file'"):
        write([{"a": 2}], path)
    assert path.read_bytes() == before
    assert [*tmp_path.iterdir()] == [path]


def test_a_full_disk_ends_a_run_in_one_line_and_keeps_what_was_measured(folder, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "curve.json.part").symlink_to("/dev/full")
    command = arguments(folder, "codec=jpeg", "codec.quality=50", f"hydra.run.dir={run}")
    done = run_module(*command)
    assert done.returncode != 0
    assert f"error: [Errno 28] No space left on device: '{run}/curve.json'" in done.stderr
    assert "Traceback" not in done.stderr
    lines = (run / "measured" / "process-0.jsonl").read_text().splitlines()
    assert sum(len(json.loads(line)["rows"]) for line in lines) == 5


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_measured(folder, tmp_path):
    (tmp_path / "file").touch()
    for where in ("hydra.run.dir", "hydra.sweep.dir"):
        multirun = ["-m"] if "sweep" in where else []
        done = run_module(
            *arguments(folder, *multirun, "codec=jpeg", f"{where}={tmp_path}/file/run"),
            env={"HYDRA_FULL_ERROR": "0"},
        )
        assert done.returncode != 0
        assert f"{tmp_path}/file/run" in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr


def test_one_run_s_full_disk_leaves_the_others_of_a_multirun_alone(folder, tmp_path):
    (tmp_path / "0-jpeg").mkdir()
    (tmp_path / "0-jpeg" / "curve.json.part").symlink_to("/dev/full")
    done = run_module(
        *arguments(folder, "-m", "codec=jpeg", "codec.quality=50", "seed=0,1"),
        *(f"hydra.sweep.dir={tmp_path}", "hydra.sweep.subdir=${hydra.job.num}-${name}"),
    )
    assert done.returncode != 0
    assert "1 of the runs failed" in done.stderr
    assert "No space left on device" in (tmp_path / "0-jpeg" / "error.txt").read_text()
    assert (tmp_path / "1-jpeg" / "curve.json").is_file()


def test_a_reader_that_is_gone_ends_a_run_in_one_line(folder, tmp_path):
    run = tmp_path / "run"
    command = arguments(folder, "codec=jpeg", "codec.quality=50", f"hydra.run.dir={run}")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write)
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1] == f"error: [Errno 32] Broken pipe: '{run}'"
    assert "Traceback" not in done.stderr
    assert (run / "measured").is_dir()
