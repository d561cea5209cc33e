"""Runs in W&B, by a stand-in for its API."""

import json
from pathlib import Path

import pytest
import wandb

from experiments.comparison.lines import join
from experiments.comparison.wandb_runs import wandb_runs


class File:
    def __init__(self, text: str) -> None:
        self.text, self.name = text, "fast/curve.json"

    def download(self, root: str, replace: bool) -> None:
        path = Path(root) / self.name
        path.parent.mkdir()
        path.write_text(self.text)


class Run:
    def __init__(self, name, *, group="g", text=None, history=(), config=None):
        self.name, self.group, self.text = name, group, text
        self.history, self.config = history, config or {}
        self.path = ["me", "project", name]
        self.created_at = "2026-01-02T03:04:05Z"

    def files(self, pattern):
        assert pattern == "%curve.json"
        return [File(self.text)] if self.text else []

    def scan_history(self):
        return iter(self.history)


class Api:
    def __init__(self, *runs):
        self.found = runs

    def runs(self, path, filters):
        if path != "me/project":
            raise wandb.errors.CommError(f"no project {path}")
        return [run for run in self.found if filters.get("group") in (None, run.group)]


def test_the_uploaded_file_is_read_as_it_is_on_disk(outputs):
    text = (outputs / "alpha" / "2026-01-01" / "curve.json").read_text()
    (run,) = wandb_runs("me/project", "g", Api(Run("a", text=text), Run("b", group="h", text=text)))
    assert run.source == "me/project/a/fast"
    assert run.name == "alpha"
    assert run.curve.points[0].rate == {"quality": 1}
    results = json.loads(text)["results"]
    assert run.curve.metrics[0] == {key: values[0] for key, values in results.items()}
    assert run.modified > 0


def test_older_runs_are_read_from_their_history():
    history = [
        {"train/loss": 1.0},
        {"curve/bpp": 0.1, "curve/psnr-rgb": 28.0, "curve/decoding_time": 0.5, "curve/fid": None},
        {"curve/bpp": 0.2, "curve/psnr-rgb": 30.0, "curve/decoding_time": 0.5},
    ]
    config = {"name": "jpeg", "codec": {"format": "JPEG"}, "datamodule": {"name": "kodak"}}
    runs = wandb_runs("me/project", None, Api(Run("x", history=history, config=config)))
    (curve,), _ = join(runs)
    assert curve.name == "jpeg"
    assert curve.pairs("psnr-rgb") == [(0.1, 28.0), (0.2, 30.0)]
    assert curve.runs[0].meta["dataset"] == "kodak"


def test_what_has_no_curve_is_said():
    with pytest.raises(ValueError, match="none of the 1 runs of 'me/project' in group 'g'"):
        wandb_runs("me/project", "g", Api(Run("x", history=[{"loss": 1}])))
    with pytest.raises(ValueError, match="cannot read the W&B project 'me/other'"):
        wandb_runs("me/other", None, Api())
