"""W&B never ends a measurement."""

import json
import logging
import os
import socket
import time

import pytest
import wandb

from callbacks import tracking
from experiments.loggers import describe, wandb_logger
from experiments.tracker import is_reachable
from tests.warm import run_module

KEY = "0" * 40
CLOSED = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    monkeypatch.setattr(tracking, "_told", set())
    yield
    wandb.teardown()


def warnings_of(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


def test_a_run_without_home_and_network_is_measured_and_logged_offline(folder, tmp_path):
    proxies = {f"{kind}_proxy": "" for kind in ("http", "https", "all")}
    environment = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": CLOSED, "WANDB_MODE": "online"}
    environment |= proxies | {name.upper(): "" for name in proxies} | {"HOME": "/dev/null/home"}
    done = run_module(
        *("experiments.run", "codec=jpeg", "codec.quality=50", "trainer=cpu"),
        *("datamodule=folder", f"datamodule.root={folder}", f"hydra.run.dir={tmp_path / 'run'}"),
        "callbacks.evaluation.metrics=[psnr-rgb]",
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "run" / "curve.json").read_text())["results"]["psnr-rgb"]
    assert (done.stdout + done.stderr).count(f"{CLOSED} does not answer") == 1
    assert [*tmp_path.glob("run/wandb/offline-run-*/run-*.wandb")]


def test_a_server_that_does_not_answer_is_given_up_soon(monkeypatch):
    for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)
    monkeypatch.setattr(socket, "create_connection", lambda *_: time.sleep(60))
    start = time.monotonic()
    assert not is_reachable(0.2)
    assert time.monotonic() - start < 5


def test_where_no_run_can_be_started_there_is_one_warning_and_none(tmp_path, monkeypatch, caplog):
    init, tried = wandb.init, []

    def failing(*args, mode, **options):
        tried.append(mode)
        if mode != "disabled":
            raise OSError(28, "No space left on device")
        return init(*args, mode=mode, **options)

    monkeypatch.setattr(wandb, "init", failing)
    logger = wandb_logger(save_dir=str(tmp_path), name="a", project="b", mode="offline")
    logger.log_hyperparams({"seed": 0})
    logger.log_metrics({"loss": 1.0}, step=1)
    assert describe(logger) == "disabled"
    logger.experiment.finish()
    assert tried == ["offline", "disabled"]
    assert [m for m in warnings_of(caplog) if "W&B" in m] == [
        "W&B cannot run offline and is disabled: [Errno 28] No space left on device"
    ]


def test_a_run_that_fails_on_the_way_is_one_warning(tmp_path, caplog):
    logger = wandb_logger(save_dir=str(tmp_path), name="a", project="b", mode="disabled")

    class Full:
        def __getattr__(self, name):
            raise OSError(28, "No space left on device")

    logger._experiment = Full()
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step=step)
    logger.log_hyperparams({"seed": 0})
    with tracking.never_fatal():
        logger.experiment.finish()
    (told,) = [m for m in warnings_of(caplog) if "W&B" in m]
    assert told.endswith("No space left on device")


def test_its_cache_and_data_lie_below_the_run_unless_the_user_says_otherwise(tmp_path, monkeypatch):
    variables = ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR")
    monkeypatch.setattr("experiments.tracker._ours", {})
    for variable in variables:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("WANDB_DATA_DIR", "/data/mine")
    for run in ("one", "two"):  # of a multirun
        wandb_logger(save_dir=str(tmp_path / run), name="a", project="b", mode="disabled")
        assert os.environ["WANDB_CACHE_DIR"] == str(tmp_path / run / "wandb" / "cache")
        assert os.environ["WANDB_DATA_DIR"] == "/data/mine"
