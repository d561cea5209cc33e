from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from experiments.cli import compose_config
from experiments.run_folder import LOCK, choose_folder

COMMAND = ["codec=jpeg", "datamodule=photos", "logger=none"]


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for variable in ("LOCAL_RANK", "SLURM_NTASKS"):
        monkeypatch.delenv(variable, raising=False)


def leave(name, overrides, *, measured=False, trained=False, run="jpeg") -> Path:
    """A run as it is after it was killed."""
    folder = Path("outputs") / run / name
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    (folder / LOCK).touch()
    for kept, there in (("measured", measured), ("checkpoints", trained)):
        if there:
            (folder / kept).mkdir()
    return folder


def chosen(arguments):
    """The folder of a stopped run that is added to a command line, or None."""
    before = {path.parent for path in Path("outputs").rglob(".hydra")}
    out = choose_folder(arguments, compose_config(arguments))
    assert out[: len(arguments)] == arguments
    added = [Path(a.removeprefix("hydra.run.dir=")) for a in out[len(arguments) :]]
    assert all(folder.is_dir() for folder in added)
    return next((folder for folder in added if folder in before), None)


def test_an_evaluation_goes_on_in_the_newest_folder_of_the_same_command():
    assert chosen(COMMAND) is None
    leave("2026-01-01", COMMAND, measured=True)
    newest = leave("2026-01-02", COMMAND[::-1], measured=True)
    leave("2026-01-03", COMMAND)  # over
    leave("2026-01-04", [*COMMAND, "seed=1"], measured=True)
    leave("2026-01-05", COMMAND, measured=True, run="webp")
    assert chosen(COMMAND) == newest
    assert chosen([*COMMAND, "datamodule.on_error=skip"]) == newest


def test_a_training_goes_on_where_it_is_asked_to():
    command = ["codec=mbt2018_mean_vbr", "fit=true", "logger=none"]
    folder = leave("2026-01-01", command, trained=True, run="mbt2018_mean_vbr")
    assert chosen(command) is None
    assert chosen([*command, "ckpt_path=last"]) == folder
    assert chosen([*command, "ckpt_path=last", "seed=1"]) is None


def test_a_folder_in_which_a_process_is_at_work_is_left_alone():
    folder = leave("2026-01-01", COMMAND, measured=True)
    with FileLock(folder / LOCK):
        assert chosen(COMMAND) is None
    assert chosen(COMMAND) == folder


def test_a_folder_that_is_given_and_processes_of_a_run_are_left_alone(monkeypatch):
    leave("2026-01-01", COMMAND, measured=True)
    assert chosen([*COMMAND, "hydra.run.dir=elsewhere"]) is None
    assert choose_folder(["--cfg", "job", *COMMAND], None) == ["--cfg", "job", *COMMAND]
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_folder(COMMAND, compose_config(COMMAND)) == COMMAND


@pytest.mark.parametrize("content", ["", "3", "a: [", "\x00"])
def test_folders_that_cannot_be_read_are_left_alone(content):
    folder = leave("2026-01-01", COMMAND, measured=True)
    (folder / ".hydra" / "overrides.yaml").write_text(content)
    assert chosen(COMMAND) is None
