"""What the documentation promises under Slurm, by a real one: `pytest -m slurm`."""

import json
import shlex
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1500)]
CODEC = ("codec=mbt2018_mean_vbr", "codec.level=[0,4]")
TWO_TASKS = ("--nodes=1", "--ntasks-per-node=2")  # as Lightning wants them
TIMES = ("encoding_time", "decoding_time")


def options(folder: Path, *more: str) -> list[str]:
    return [
        *("logger=none", "datamodule=folder", f"datamodule.root={folder}", "threads=1"),
        *("callbacks.evaluation.metrics=[psnr-rgb,fd_random]", "trainer=ddp_cpu", *more),
    ]


def figures(path: Path) -> dict:
    results = json.loads(path.read_text())["results"]
    return {key: values for key, values in results.items() if key not in TIMES}


def script(path: Path, command: list[str], *directives: str) -> str:
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {line}" for line in (f"--output={path}.log", "--open-mode=append")),
        *(f"#SBATCH {line}" for line in directives),
        f"cd {shlex.quote(str(ROOT))}",
        f"exec {shlex.join(command)}",
    ]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture(scope="module")
def undisturbed(cluster, folder, tmp_path_factory) -> Path:
    """A run of one process that nothing disturbs."""
    path = tmp_path_factory.mktemp("undisturbed")
    more = (*CODEC, f"hydra.run.dir={path}", "trainer=cpu")
    cluster.run(sys.executable, "-m", "experiments.run", *options(folder, *more), cwd=ROOT)
    return path / "curve.json"


def test_a_multirun_of_two_codecs_in_two_processes_a_job(cluster, folder, tmp_path):
    done = cluster.run(
        *(sys.executable, "-m", "experiments.run", "-m", "hydra/launcher=submitit_slurm"),
        *("hydra.launcher.partition=all", "hydra.launcher.tasks_per_node=2"),
        *("hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=10"),
        *("hydra.launcher.mem_gb=null", f"hydra.sweep.dir={tmp_path}"),
        *options(folder, "codec=jpeg,webp", "codec.quality=[30,60]"),
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("0-jpeg", "1-webp"):
        meta = json.loads((tmp_path / name / "curve.json").read_text())["meta"]
        assert (meta["world_size"], meta["num_images"]) == (2, 5)


def test_a_job_that_is_stopped_in_the_middle_goes_on_and_has_the_same_figures(
    cluster, folder, tmp_path, undisturbed
):
    more = (*CODEC, f"hydra.run.dir={tmp_path / 'run'}")
    command = ["srun", sys.executable, "-m", "experiments.run", *options(folder, *more)]
    path = script(tmp_path / "job", command, *TWO_TASKS, "--requeue")
    job = cluster.run("sbatch", "--parsable", path).stdout.strip()
    kept = tmp_path / "run" / "measured"
    end = time.monotonic() + 300
    while not any(lines.stat().st_size for lines in kept.glob("process-*.jsonl")):
        assert time.monotonic() < end, Path(f"{path}.log").read_text()
        time.sleep(0.2)
    cluster.run("scancel", "--signal=TERM", job)
    cluster.wait_for("Restarts=1", "scontrol", "show", "job", job, seconds=200)
    cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
    cluster.wait(job, 600)
    assert figures(tmp_path / "run" / "curve.json") == figures(undisturbed)
    assert not kept.exists()


def test_a_failing_rank_ends_the_job(cluster, folder, tmp_path):
    broken = tmp_path / "images"
    broken.mkdir()
    for path in folder.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "a1.png").write_bytes(b"")
    more = ("codec=jpeg", f"hydra.run.dir={tmp_path / 'run'}")
    command = [sys.executable, "-m", "experiments.run", *options(broken, *more)]
    start = time.monotonic()
    done = cluster.run(
        *("srun", *TWO_TASKS, "--kill-on-bad-exit=1", *command),
        cwd=ROOT,
        check=False,
        timeout=400,
    )
    assert done.returncode != 0
    assert time.monotonic() - start < 300
    assert "a1.png" in done.stdout + done.stderr
    assert not (tmp_path / "run" / "curve.json").exists()
