"""The command line, on a small codec."""

import json
from pathlib import Path

import pytest

from tests.wandb_file import read_records
from tests.warm import run_module

ROOT = Path(__file__).parents[3]


def run(folder, *arguments):
    own = ["trainer=cpu", "repetitions=2", "sizes=[64,64x96]", f"hydra.run.dir={folder}"]
    return run_module("experiments.benchmark", *own, *arguments)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    done = run(
        folder, "codec=mbt2018_mean", "codec.size=[8,8]", "batch_sizes=[1,2]", "logger=wandb"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, json.loads((folder / "benchmark.json").read_text()), done


def test_every_variant_size_and_batch_is_measured(measured):
    _, data, done = measured
    assert [(row["variant"], row["size"], row["batch"]) for row in data["coding"]] == [
        (variant, size, batch)
        for variant in ("eager", "channels_last")
        for size in ("64", "64x96")
        for batch in (1, 2)
    ]
    assert data["meta"]["left_out"] == {
        "bf16": "codec=mbt2018_mean has no codec.decode_precision",
        "compiled": "codec=mbt2018_mean has no codec.compile",
    }
    assert "skipping variant bf16" in done.stdout + done.stderr
    assert [row["variant"] for row in data["training"]] == ["eager", "channels_last"]
    assert "network/entropy/rest" in done.stdout


def test_the_parts_make_up_the_time(measured):
    _, data, _ = measured
    for row in data["coding"]:
        for stage in ("encode", "decode"):
            parts = row[stage]["parts"]
            assert set(parts) == {"network", "entropy", "rest"}
            assert parts["network"] > 0
            assert parts["entropy"] > 0
            assert row[stage]["seconds"]["low"] <= row[stage]["seconds"]["high"]
            assert 0 < row[stage]["share_of_peak"] < 1
    sizes = {row["size"]: row["decode"]["flops"] for row in data["coding"]}
    assert sizes["64x96"] == 2 * sizes["64"]  # padded to 64x128


def test_it_is_in_wandb(measured):
    folder, _, _ = measured
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    runs = [record.run for record in read_records(path) if record.HasField("run")]
    assert runs[0].job_type == "benchmark"
    summary = {
        "/".join(item.nested_key) or item.key
        for record in read_records(path)
        for item in record.summary.update
    }
    assert any("eager/64/1/decode/seconds/median" in key for key in summary)


def test_against_an_earlier_one_without_training(measured, tmp_path):
    folder, _, _ = measured
    done = run(
        tmp_path,
        "codec=jpeg",
        "logger=none",
        "--against",
        str(folder / "benchmark.json"),
        "batch_sizes=[1]",
        "variants.channels_last=null",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    data = json.loads((tmp_path / "benchmark.json").read_text())
    assert data["training"] == []
    assert all(ratio["decode"] > 0 for ratio in data["ratios"])
    assert len(data["ratios"]) == 2


def test_a_wrong_name_lists_the_choices(tmp_path):
    done = run(tmp_path, "repetition=3")
    assert "Did you mean 'repetitions'?" in done.stderr
