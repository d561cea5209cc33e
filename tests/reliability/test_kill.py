"""`kill -9` in the middle of a command, and the same command again, as a user would."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow

COMMON = (
    *("logger=none", "threads=1", "callbacks.progress=null", "callbacks.reconstructions=null"),
    *("callbacks.evaluation.metrics=[psnr-rgb,fd_random]", "callbacks.evaluation.protocol=whole"),
    *("codec=mbt2018_mean_vbr", "codec.level=[1,5]", "datamodule=folder"),
    "datamodule.train_transform.transforms.0.size=64",
)
TRAINING = (
    *("fit=true", "trainer.max_steps=60", "ckpt_path=last", "datamodule.batch_size=1"),
    *("callbacks.checkpoint.every_n_steps=1", "callbacks.export=null"),
)


class Command:
    """`python -m experiments.run` in a folder of its own."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.command = [sys.executable, "-m", "experiments.run", *COMMON, *overrides]

    def start(self) -> subprocess.Popen[str]:
        paths = os.pathsep.join(map(str, (ROOT, ROOT / "codecs")))
        return subprocess.Popen(
            self.command,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self, code: int = 0) -> str:
        process = self.start()
        output = process.communicate(timeout=500)[0]
        assert process.returncode == code, output
        return output

    def stop(self, ready: Callable[[], bool], sent: signal.Signals) -> tuple[str, int]:
        """Send a signal to all processes when something is there; what was printed, and the code.

        SIGTERM goes to the first process alone, as `kill` sends it.
        """
        process = self.start()
        deadline = time.monotonic() + 200
        while not ready() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.poll() is None, process.communicate()[0]
        if sent == signal.SIGKILL:
            os.killpg(process.pid, sent)
        else:
            process.send_signal(sent)
        output = process.communicate(timeout=100)[0]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return output, process.returncode

    @property
    def runs(self) -> list[Path]:
        return sorted(self.folder.glob("outputs/*/*"))

    def measured(self) -> int:
        files = self.folder.glob("outputs/*/*/measured/*.jsonl")
        return sum(path.read_bytes().count(b"\n") for path in files)

    def has_trained(self) -> bool:
        return any(self.folder.glob("outputs/*/*/checkpoints/last.ckpt"))

    @property
    def results(self) -> dict:
        (run,) = self.runs
        return json.loads((run / "curve.json").read_text())["results"]

    @property
    def state(self) -> dict:
        (run,) = self.runs
        return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


DEVICES = pytest.mark.parametrize(
    "devices", [("trainer=cpu",), ("trainer=ddp_cpu", "trainer.devices=2")], ids=["one", "two"]
)


@DEVICES
def test_an_evaluation_goes_on(devices, crops, tmp_path):
    overrides = (*devices, f"datamodule.root={crops}")
    whole = Command(tmp_path / "whole", *overrides)
    whole.finish()
    killed = Command(tmp_path / "killed", *overrides)
    count = random.SystemRandom().randint(1, 10)
    print("killed after", count)
    killed.stop(lambda: killed.measured() >= count, signal.SIGKILL)
    output = killed.finish()
    assert f"resuming in outputs/mbt2018_mean_vbr/{killed.runs[0].name}" in output
    assert killed.results == whole.results
    assert not (killed.runs[0] / "measured").exists()
    # It is over now: the command begins anew.
    assert "resuming in" not in killed.finish()
    assert len(killed.runs) == 2


@DEVICES
def test_a_training_goes_on_with_the_same_weights(devices, crops, tmp_path):
    overrides = (*devices, *TRAINING, f"datamodule.root={crops}")
    whole = Command(tmp_path / "whole", *overrides)
    whole.finish()
    killed = Command(tmp_path / "killed", *overrides)
    for _ in range(2):
        delay = time.monotonic() + random.SystemRandom().uniform(0, 5)

        def ready(after: float = delay) -> bool:
            return killed.has_trained() and time.monotonic() > after

        killed.stop(ready, signal.SIGKILL)
    assert "resuming in" in killed.finish()
    one, two = whole.state, killed.state
    assert two["global_step"] == 60
    for name, tensor in one["state_dict"].items():
        assert torch.equal(two["state_dict"][name], tensor), name
    for key, values in one["optimizer_states"][0]["state"].items():
        for name, value in values.items():
            assert torch.equal(value, two["optimizer_states"][0]["state"][key][name])
    assert killed.results == whole.results


@DEVICES
def test_sigterm_leaves_a_checkpoint_and_a_code_to_requeue_by(devices, crops, tmp_path):
    overrides = (*devices, *TRAINING, f"datamodule.root={crops}", "trainer.max_steps=100000")
    command = Command(tmp_path, *overrides)
    output, code = command.stop(command.has_trained, signal.SIGTERM)
    assert code == 75, output
    assert command.state["global_step"] >= 1
    assert "Traceback" not in output


def test_sigterm_ends_an_evaluation_that_goes_on(crops, tmp_path):
    command = Command(tmp_path, "trainer=cpu", f"datamodule.root={crops}")
    output, code = command.stop(lambda: command.measured() >= 1, signal.SIGTERM)
    assert code == 75, output
    assert "resuming in" in command.finish()
