import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

from experiments.cli import compose_config
from experiments.overrides import run_folder
from experiments.run_folder import LOCK, OWNER, choose_folder, make_new
from tests.warm import run_module

COMMAND = ["codec=jpeg", "datamodule=photos", "logger=none"]
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for variable in ("LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_PROCID", "SLURM_NTASKS"):
        monkeypatch.delenv(variable, raising=False)


def test_commands_that_start_together_get_a_folder_each():
    cfg = compose_config(COMMAND)
    chosen = [run_folder(choose_folder(COMMAND, cfg)) for _ in range(5)]
    assert len({*chosen}) == 5
    multiruns = [choose_folder(["-m", *COMMAND], None)[-1] for _ in range(5)]
    assert len({*multiruns}) == 5
    assert all(Path(m.removeprefix("hydra.sweep.dir=")).is_dir() for m in multiruns)
    with ThreadPoolExecutor(16) as pool:
        assert len({*pool.map(make_new, [Path("outputs") / "jpeg" / "now"] * 200)}) == 200


def test_two_runs_of_one_second_lose_nothing(folder, tmp_path):
    arguments = [
        *("-m", "experiments.run", "codec=jpeg", "codec.quality=50", "logger=none"),
        *("trainer=cpu", "datamodule=folder", f"datamodule.root={folder}"),
        *("callbacks.evaluation.metrics=[psnr-rgb]", "hydra.run.dir=outputs/jpeg/${now:%Y}"),
    ]
    # A resolution of a year in place of a second: the default has no other difference.
    code = (
        "import sys; from experiments import cli, run; compose = cli.compose_config\n"
        "def yearly(overrides, *more):\n"
        "    cfg = compose(overrides, *more)\n"
        "    cfg.hydra.run.dir = 'outputs/jpeg/2026'\n"
        "    return cfg\n"
        "cli.compose_config = yearly; cli.prepare_command_line(); run.main()"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'codecs'}"}
    command = [sys.executable, "-c", code, *arguments[2:-1]]
    started = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait(300) for process in started] == [0, 0]
    curves = sorted(Path("outputs").rglob("curve.json"))
    assert [path.parent.name for path in curves] == ["2026", "2026-1"]


def test_a_folder_in_which_a_process_lives_is_refused_by_its_name(folder, tmp_path):
    live = tmp_path / "live"
    live.mkdir()
    (live / OWNER).write_text(json.dumps({"pid": 123, "host": "box", "started": "12:00"}))
    (live / "curve.json").write_text("{}")
    arguments = ["logger=none", "datamodule=folder", f"datamodule.root={folder}", "codec=jpeg"]
    with FileLock(live / LOCK):
        done = run_module("experiments.run", *arguments, f"hydra.run.dir={live}")
    assert done.returncode != 0
    assert done.stderr.strip() == (
        f"error: process 123 on box, started at 12:00, runs in {live}: wait for it, stop it, or "
        "pass another hydra.run.dir=FOLDER"
    )
    assert (live / "curve.json").read_text() == "{}"
    assert not (live / ".hydra").exists()
    done = run_module("experiments.run", *arguments, f"hydra.run.dir={live}", "codec.quality=300")
    assert "is outside 1 to 95" in done.stderr  # nobody lives there any more
    assert json.loads((live / OWNER).read_text())["host"] == socket.gethostname()


def test_the_jobs_of_a_multirun_do_not_share_a_folder(folder, tmp_path):
    done = run_module(
        *("experiments.run", "-m", "logger=none", "trainer=cpu", "datamodule=folder"),
        *(f"datamodule.root={folder}", "codec=jpeg", "codec.quality=50", "seed=0,1"),
        *(f"hydra.sweep.dir={tmp_path}", "hydra.sweep.subdir=same"),
        "callbacks.evaluation.metrics=[psnr-rgb]",
    )
    assert done.returncode != 0
    assert f"two jobs of this multirun share {tmp_path}/same" in done.stderr
    assert json.loads((tmp_path / "same" / "curve.json").read_text())["meta"]["config"]["seed"] == 0


def test_the_tasks_of_a_slurm_step_share_a_folder_and_find_it_again(monkeypatch):
    environment = {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}
    for procid in ("0", "1"):
        for name, value in {**environment, "SLURM_PROCID": procid}.items():
            monkeypatch.setenv(name, value)
        chosen = choose_folder(COMMAND, compose_config(COMMAND))
        assert run_folder(chosen) == "outputs/jpeg/slurm-7-0"
    monkeypatch.setenv("SLURM_NTASKS", "1")  # of a job array, whose jobs start together
    assert len({run_folder(choose_folder(COMMAND, compose_config(COMMAND))) for _ in "12"}) == 2
