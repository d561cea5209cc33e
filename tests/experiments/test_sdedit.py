"""The enhancer through the real runner: several curves in one run, under inference mode."""

import json

import pytest

from tests.wandb_file import read_records
from tests.warm import run_module

TINY = (
    *(
        "codec.prior.denoiser.channels=[8]",
        "codec.prior.denoiser.layers=1",
        "codec.prior.denoiser.weights=null",
    ),
    *("codec.prior.consistency.weights=null", "codec.calibration.size=64"),
)
SERIES = ("fast", "medium", "slow", "base")


@pytest.fixture(scope="module")
def enhanced(runner):
    """A run with all presets over two rates of the hyperprior, with W&B offline."""
    path = runner.root / "enhanced"
    runner.run(
        *("enhanced", "codec=sdedit", "codec/preset=[fast,medium,slow]", "logger=wandb", *TINY),
        *("codec.base.level=[1,5]", "codec.preset.medium.steps=2", "codec.preset.slow.steps=2"),
        *("+datamodule.test.limit=2", "callbacks.reconstructions.max_images=1"),
    )
    curves = {name: json.loads((path / name / "curve.json").read_text()) for name in SERIES}
    return path, curves


def test_base_and_enhanced_curves_lie_side_by_side(enhanced):
    path, curves = enhanced
    assert not (path / "curve.json").exists()
    for name, curve in curves.items():
        assert curve["name"] == f"sdedit {name}"
        names = [point["name"] for point in curve["meta"]["points"]]
        assert names == [f"{name},level=1", f"{name},level=5"]
        for rate in ("bpp", "bpp-payload"):
            assert curve["results"][rate] == curves["base"]["results"][rate]
    assert curves["base"]["results"]["strength"] == [0, 0]
    psnr = {name: curve["results"]["psnr-rgb"] for name, curve in curves.items()}
    for name in ("fast", "medium", "slow"):
        assert all(p < base - 1 for p, base in zip(psnr[name], psnr["base"], strict=True))
    pictures = {p.name for p in (path / "reconstructions").iterdir()}
    assert pictures >= {"original", "base,level=1", "slow,level=5"}


def test_strengths_are_kept_and_can_be_given_back(enhanced, runner):
    path, curves = enhanced
    strengths = json.loads((path / "strengths.json").read_text())["strengths"]
    for name in ("fast", "medium", "slow"):
        found = [strengths[name][point] for point in ("level=1", "level=5")]
        assert curves[name]["results"]["strength"] == found
        assert found[0] > found[1] > 0
    again, _ = runner(
        *("again", "codec=sdedit", "codec/preset=fast", "codec.show_base=false", *TINY),
        *("codec.base.level=[5]", f"codec.strength={path / 'strengths.json'}"),
        *("codec.calibration=null", "+datamodule.test.limit=2"),
    )
    assert again["name"] == "sdedit"  # one line alone is the run's
    assert again["results"]["strength"] == [strengths["fast"]["level=5"]]


def test_the_wandb_run_holds_a_line_for_each(enhanced):
    path, curves = enhanced
    (file,) = path.glob("wandb/offline-run-*/run-*.wandb")
    history, steps, tables = [], {}, []
    for record in read_records(file):
        if record.HasField("history"):
            row = {"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
            history.append(row)
        elif record.HasField("metric"):
            name = record.metric.name or record.metric.glob_name
            steps[name] = record.metric.step_metric
    for name in SERIES:
        found = [float(row[f"curve/{name}/bpp"]) for row in history if f"curve/{name}/bpp" in row]
        assert found == pytest.approx(curves[name]["results"]["bpp"], rel=1e-12)
        assert steps[f"curve/{name}/*"] == f"curve/{name}/bpp"
    tables = [p.read_text() for p in path.glob("wandb/**/points*.table.json")]
    assert tables
    last = json.loads(max(tables, key=len))
    assert last["columns"][:3] == ["series", "point", "bpp"]
    assert {row[0] for row in last["data"]} == set(SERIES)


def test_slow_on_jpeg_is_one_line_before_anything_runs(runner):
    done = runner.run(
        *("refused", "codec=sdedit", "codec/base=jpeg", "codec/preset=slow", *TINY), check=False
    )
    assert done.returncode != 0
    assert "error: preset slow needs a differentiable base codec" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_defaults_are_more_realistic_than_their_base_at_every_rate(tmp_path):
    options = ("codec=sdedit", "logger=none", f"hydra.run.dir={tmp_path}")
    done = run_module("experiments.run", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    results = {
        name: json.loads((tmp_path / name / "curve.json").read_text())["results"]
        for name in ("fast", "medium", "base")
    }
    base = results.pop("base")
    for name, result in results.items():
        assert result["bpp"] == base["bpp"]
        for i, realism in enumerate(base["fd_effnet"]):
            assert result["fd_effnet"][i] < realism, (name, i)
            assert 2 < base["psnr-rgb"][i] - result["psnr-rgb"][i] < 4, (name, i)
