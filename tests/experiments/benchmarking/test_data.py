import json
import sys

import pytest
from PIL import Image
from torchvision.transforms import v2

from datamodules.image_sets import Folder
from datamodules.module import ImageDataModule
from experiments import benchmark
from experiments.benchmarking.data import measure_data


@pytest.fixture
def folder(tmp_path):
    for number in range(5):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def test_images_a_second_are_counted_over_epochs(folder):
    datamodule = ImageDataModule(
        "a", root=str(folder), train=Folder(), train_transform=v2.RandomCrop(8), batch_size=2
    )
    row = measure_data(datamodule, num_batches=7)
    assert row["batch"] == 2
    assert row["skipped"] == 0
    assert row["first_seconds"] > 0
    assert row["seconds"]["low"] <= row["seconds"]["median"] <= row["seconds"]["high"]
    with pytest.raises(ValueError, match="at least 1 batch, got 0"):
        measure_data(datamodule, num_batches=0)


def test_the_command_line(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    arguments = ["data=3", "logger=none", "datamodule=folder", f"datamodule.root={folder}"]
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments, f"hydra.run.dir={out}"])
    benchmark.main()
    row = json.loads((out / "benchmark.json").read_text())["data"]
    assert row["datamodule"] == "folder"
    assert row["images_per_second"] > 0
    assert "images/s" in capsys.readouterr().out
