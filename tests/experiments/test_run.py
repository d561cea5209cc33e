import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffcodec.results.contact_sheet import CELL, GAP
from tests.wandb_file import read_records

ROOT = Path(__file__).parents[2]
SHORT = (
    "trainer.max_steps=3",
    "fit=true",
    "trainer.log_every_n_steps=1",
    "datamodule.batch_size=2",
)


@pytest.fixture(scope="module")
def trained(runner):
    """A run that trains for three steps in bfloat16 and measures two points, with W&B offline."""
    curve, output = runner(
        "trained",
        *("logger=wandb", "codec.level=[0,5]", "trainer.precision=bf16-mixed", *SHORT),
        "callbacks.reconstructions.max_images=2",
        "datamodule.train_transform.transforms.0.size=64",
    )
    return runner.root / "trained", curve, output


def test_the_curve_says_what_was_measured(trained):
    _, curve, _ = trained
    results, meta = curve["results"], curve["meta"]
    assert [point["rate"] for point in meta["points"]] == [{"level": 0}, {"level": 5}]
    assert results["bpp"][0] < results["bpp"][1]
    assert results["psnr-rgb"][0] < results["psnr-rgb"][1]
    assert set(results) >= {"ms-ssim-rgb", "fd_effnet", "kd_effnet", "encoding_time", "bpp-payload"}
    assert "fid" not in results
    assert meta["num_images"] == 5
    assert meta["num_patches"] == 4  # b.png is smaller than a patch
    assert "256x256" in meta["fid"]
    assert meta["config"]["codec"]["level"] == [0, 5]


def test_bpp_is_that_of_the_rows_and_rows_are_in_order(trained):
    folder, curve, _ = trained
    with (folder / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [*(f"a{i}.png" for i in range(4)), "b.png"] * 2
    for point, bpp in zip(curve["meta"]["points"], curve["results"]["bpp"], strict=True):
        own = [row for row in rows if row["point"] == point["name"]]
        for row in own:
            exact = 8 * int(row["num_bytes"]) / (int(row["height"]) * int(row["width"]))
            assert float(row["bpp"]) == pytest.approx(exact, rel=1e-12)
        assert bpp == pytest.approx(np.mean([float(row["bpp"]) for row in own]), rel=1e-12)


def test_pictures_are_what_was_measured(trained):
    folder, _, _ = trained
    with (folder / "images.csv").open() as file:
        row = next(r for r in csv.DictReader(file) if r["point"] == "level=5")
    x, x_hat = (
        np.asarray(Image.open(folder / "reconstructions" / name / "0000-a0.png"), dtype=float)
        for name in ("original", "level=5")
    )
    assert 10 * np.log10(255**2 / np.mean((x - x_hat) ** 2)) == pytest.approx(
        float(row["psnr-rgb"])
    )
    pictures = sorted(p.name for p in (folder / "reconstructions" / "level=5").iterdir())
    assert pictures == [
        *("0000-a0.compare.png", "0000-a0.png", "0001-a1.compare.png", "0001-a1.png"),
    ]
    assert Image.open(folder / "curve.png").size[0] > 600
    sheet = Image.open(folder / "reconstructions" / "sheet.png")
    assert sheet.width == 3 * (CELL + GAP) + GAP  # the original and two points


def test_the_output_ends_with_a_table_and_the_paths(trained):
    folder, _, output = trained
    for text in ("level=5", "fd_effnet", str(folder / "curve.json"), "wandb sync", "offline"):
        assert text in output


def test_the_offline_wandb_run_holds_the_points(trained):
    folder, curve, _ = trained
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    history, metrics, config = [], {}, {}
    for record in read_records(path):
        if record.HasField("history"):
            history.append(
                {"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
            )
        elif record.HasField("metric"):
            metrics[record.metric.name or record.metric.glob_name] = record.metric.step_metric
        for update in (record.run.config.update, record.config.update):
            config |= {"/".join(i.nested_key) or i.key: i.value_json for i in update}
    points = [float(row["curve/bpp"]) for row in history if "curve/bpp" in row]
    assert points == pytest.approx(curve["results"]["bpp"], rel=1e-12)
    psnr = [float(row["curve/psnr-rgb"]) for row in history if "curve/psnr-rgb" in row]
    assert psnr == pytest.approx(curve["results"]["psnr-rgb"], rel=1e-12)
    assert metrics["curve/*"] == "curve/bpp"
    keys = [key for row in history for key in row]
    for prefix in ("train/loss", "points/", "figure/", "reconstructions/0001-a1/"):
        assert any(key.startswith(prefix) for key in keys), prefix
    assert json.loads(config["codec"])["level"] == [0, 5]


def test_a_checkpoint_is_evaluated_and_resumed(trained, runner):
    folder, curve, _ = trained
    checkpoint = folder / "checkpoints" / "last.ckpt"
    again, _ = runner("again", "fit=false", "codec.level=[5]", f"ckpt_path={checkpoint}")
    for name in ("bpp", "psnr-rgb", "ms-ssim-rgb", "fd_effnet"):
        assert again["results"][name][0] == pytest.approx(curve["results"][name][1], rel=1e-6)
    runner(
        *("resumed", "codec.level=[5]", f"ckpt_path={checkpoint}", "trainer.max_steps=5"),
        *SHORT[1:],
    )
    state = torch.load(runner.root / "resumed" / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 5


def test_a_part_is_trained_and_validated_but_not_measured(runner):
    part = (
        *("part.network.channels=[8]", "part.network.layers=1"),
        *("part.sigmas=[0.1]", "part.warmup_steps=1"),
    )
    images = ("datamodule.train.path=.", "datamodule.val.path=.", "datamodule.test.path=.")
    done = runner.run(
        *("part", "experiment=sdedit/prior", *part, *images, "logger=csv", *SHORT),
        *("trainer.precision=32-true", "callbacks.average=null"),
    )
    folder = runner.root / "part"
    assert str(folder / "model") in done.stdout
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 3
    weights = load_file(folder / "model" / "model.safetensors")
    assert {f"network.{name}" for name in weights} == set(state["state_dict"])
    assert not (folder / "curve.json").exists()
    (log,) = folder.rglob("metrics.csv")
    with log.open() as file:
        logged = [row["val/psnr@sigma=0.1"] for row in csv.DictReader(file)]
    assert float([value for value in logged if value][-1]) > 10


def test_ctrl_c_leaves_a_checkpoint(runner):
    arguments = runner.arguments("stopped", "trainer.max_steps=100000", *SHORT[1:])
    command = [sys.executable, "-m", "experiments.run", *arguments]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell's background job ignores the signal, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    output = ""
    deadline = time.monotonic() + 200
    while "train/loss=" not in output and time.monotonic() < deadline:
        output += process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    output += process.communicate(timeout=100)[0]
    checkpoint = runner.root / "stopped" / "checkpoints" / "last.ckpt"
    assert torch.load(checkpoint, weights_only=True)["global_step"] >= 1


def test_a_training_that_ends_inside_its_warm_up_is_refused(tmp_path):
    command = [sys.executable, "-m", "experiments.run", "codec=perco", "fit=true"]
    options = (
        "trainer.max_steps=30",
        "codec.training.warmup_steps=100",
        f"hydra.run.dir={tmp_path}",
    )
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    expected = (
        "error: trainer.max_steps=30 ends inside the warm-up of 100 steps: raise it, or lower"
    )
    assert expected in done.stderr
    assert "codec.training.warmup_steps" in done.stderr
    assert "Traceback" not in done.stderr
