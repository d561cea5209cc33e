"""A plain installation: what is left out is named, and a run goes without it."""

import pytest

from experiments import extras
from experiments.cli import check_overrides
from experiments.loggers import wandb_logger


@pytest.fixture
def plain(monkeypatch):
    """As if neither W&B nor submitit were installed."""
    missing = ("wandb", extras.SUBMITIT)
    find = extras.distribution

    def distribution(name):
        if name in missing:
            raise extras.PackageNotFoundError(name)
        return find(name)

    monkeypatch.setattr(extras, "distribution", distribution)


@pytest.mark.parametrize(
    ("argument", "package"),
    [("logger=wandb", "wandb"), ("hydra/launcher=submitit_slurm", "hydra-submitit-launcher")],
)
def test_what_is_asked_for_names_the_command_that_installs_it(plain, argument, package):
    line = f"error: {argument} needs the package {package}: pip install {package}$"
    with pytest.raises(SystemExit, match=line):
        check_overrides(["-m", "codec=jpeg", argument])


def test_comparing_runs_of_wandb_needs_it(plain):
    from experiments.compare import compare, parser

    with pytest.raises(ValueError, match="--wandb needs the package wandb: pip install wandb"):
        compare(parser().parse_args(["--wandb", "me/project"]))


def test_the_default_logger_goes_without(plain, tmp_path):
    options = {"save_dir": str(tmp_path), "name": "run", "project": "project"}
    assert wandb_logger(**options, optional=True) is False
    with pytest.raises(ValueError, match="pip install wandb"):
        wandb_logger(**options)


def test_a_folder_of_the_name_is_no_package(plain, tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not extras.is_installed("wandb")


def test_what_is_installed_is_found():
    assert extras.is_installed("wandb")
    assert check_overrides(["codec=jpeg", "logger=wandb"]).logger.optional is False
    assert check_overrides(["codec=jpeg"]).logger.optional is True
