"""Device mistakes, found without a GPU: see `tests.simulated_cuda` for what this cannot show."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffcodec.metrics import all_metrics
from tests.test_contract import NAMES, UNAVAILABLE

ROOT = Path(__file__).parents[1]
# As a package of that name: some libraries install a `tests` of their own.
START = (
    "import runpy, sys, types; tests = types.ModuleType('tests'); tests.__path__ = ['tests']; "
    "sys.modules['tests'] = tests; "
    "runpy.run_module('tests.simulated_cuda_checks', run_name='__main__', alter_sys=True)"
)
CODECS = [name for name in NAMES if name not in UNAVAILABLE]
METRICS = [m.key for m in all_metrics().values() if hasattr(m, "build") and m.default]
CHECKS = [
    *(f"{kind} {name}" for name in CODECS for kind in ("codec", "training")),
    *(f"metric {key}" for key in dict.fromkeys([*METRICS, "lpips", "fid", "clip_score", "miou"])),
    *(
        "captioner palette",
        "captioner blip2",
        "captioner inversion",
        "a tensor that is left behind",
    ),
]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, str | None]:
    """What was wrong in each check, by its name; all run in a process that torch is changed in."""
    path = tmp_path_factory.mktemp("devices") / "results.jsonl"
    subprocess.run(
        [sys.executable, "-c", START, path], cwd=ROOT, check=True, capture_output=True, timeout=500
    )
    return dict(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize("check", CHECKS)
def test_nothing_is_left_on_another_device(results, check):
    assert results[check] is None, results[check]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_the_rules_are_those_of_cuda():
    x, y = torch.ones(3, device="cuda"), torch.ones(3)
    with pytest.raises(RuntimeError, match=r"same device|two devices"):
        x + y
    assert (x + torch.tensor(1.0)).tolist() == [2.0] * 3
    assert x[torch.tensor([0, 1])].tolist() == [1.0] * 2
