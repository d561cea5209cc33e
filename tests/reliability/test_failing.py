"""One process that fails ends all of them, with what it has to say."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_fails_ends_all(rank, crops, tmp_path):
    command = [
        *(sys.executable, "-m", "experiments.run", "codec=mbt2018_mean", "codec.size=[8,8]"),
        *("fit=true", "trainer=ddp_cpu", "trainer.max_steps=1000", "logger=none", "threads=1"),
        *("datamodule=folder", f"datamodule.root={crops}", "datamodule.batch_size=1"),
        *("datamodule.train_transform.transforms.0.size=64", "callbacks.progress=null"),
        *("+callbacks.fail._target_=failing.FailsOn",),
        *(f"+callbacks.fail.rank={rank}", f"hydra.run.dir={tmp_path}"),
    ]
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "codecs", Path(__file__).parent)))
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    lines = []
    failed = None
    assert process.stdout is not None
    for line in process.stdout:  # it is open as long as one of them is there
        lines.append(line)
        if failed is None and f"process {rank} cannot go on" in line:
            failed = time.monotonic()
    process.wait(60)
    assert failed is not None, "".join(lines)
    assert time.monotonic() - failed < 60
    assert process.returncode != 0
    assert f"error: process {rank} cannot go on\n" in lines
