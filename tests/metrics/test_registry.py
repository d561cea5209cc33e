"""A metric is one file: nothing else knows it, and everything shows it."""

import csv
import json
from dataclasses import replace

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

import diffcodec.metrics
from callbacks.curves import RateCurves
from callbacks.evaluation import Evaluation
from diffcodec.base.classical import PillowCodec
from diffcodec.metrics import Metric, all_metrics, find_metric, headlines, ordered
from experiments.compare import compare, parser
from tests.trainers import measure, quiet_trainer

TOY = '''
"""The largest error of a pixel, as a share of the range."""

from diffcodec.metrics.metric import ImageMetric


def largest_error(x, x_hat):
    return float((x.int() - x_hat.int()).abs().max()) / 255


METRIC = ImageMetric(
    "largest-error",
    "Largest error",
    kind="distortion",
    better="lower",
    headline=True,
    build=lambda weights: largest_error,
)
'''


@pytest.fixture
def toy_metric(tmp_path, monkeypatch):
    folder = tmp_path / "more_metrics"
    folder.mkdir()
    (folder / "toy_largest_error.py").write_text(TOY)
    monkeypatch.setattr(diffcodec.metrics, "__path__", [*diffcodec.metrics.__path__, str(folder)])
    return tmp_path


class Data(LightningDataModule):
    name = "photos"

    def __init__(self, images):
        super().__init__()
        self.samples = [{"index": i, "name": f"{i}.png", "image": x} for i, x in enumerate(images)]

    def test_dataloader(self):
        return DataLoader(self.samples, batch_size=1)


def test_a_metric_in_a_file_of_its_own_is_measured_and_shown_everywhere(toy_metric, photo):
    images = [photo[0, :, :300, :300], photo[0, :, 100:400, 100:400]]
    folders = []
    for name, quality in (("coarse", [5, 30, 60]), ("fine", [20, 50, 90])):
        folder = toy_metric / name
        folders.append(str(folder))
        codec = PillowCodec("JPEG", quality=quality)
        trainer = quiet_trainer(
            folder,
            use_distributed_sampler=False,
            callbacks=[
                Evaluation(metrics=["psnr-rgb", "largest-error"]),
                RateCurves(name, str(folder)),
            ],
        )
        for point in codec.points:
            measure(trainer, codec, Data(images), points=[point])
    with (toy_metric / "fine" / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    curve = json.loads((toy_metric / "fine" / "curve.json").read_text())
    means = curve["results"]["largest-error"]
    assert len(means) == 3
    assert means[0] == pytest.approx(sum(float(row["largest-error"]) for row in rows[:2]) / 2)
    assert means[0] > means[-1] > 0
    out = toy_metric / "comparison"
    compare(parser().parse_args([*folders, "--output", str(out)]))
    assert (out / "largest-error.png").is_file()
    assert "BD-Largest error" in (out / "table.md").read_text()
    assert "Largest error, lower is better" in (out / "index.html").read_text()
    assert "Largest error" in (out / "overview.svg").read_text()


def test_every_metric_has_a_key_and_a_label_of_its_own():
    metrics = all_metrics()
    assert {"bpp", "bpp-payload", "psnr-rgb", "ms-ssim-rgb", "fid"} <= set(metrics)
    assert len({metric.label for metric in metrics.values()}) == len(metrics)
    assert all(m.better != "neither" for m in metrics.values() if m.kind in ("distortion",))


def test_overviews_show_what_is_measured_by_trained_networks():
    keys = ["fd_random", "kd_effnet", "fid", "psnr-rgb", "fd_effnet", "bpp", "st_lpips", "lpips"]
    shown = ["psnr-rgb", "lpips", "st_lpips", "fid", "fd_effnet", "kd_effnet"]
    assert [metric.key for metric in headlines(keys)] == shown
    assert not any(m.default for m in all_metrics().values() if m.key.endswith("_random"))
    assert all_metrics()["st_lpips"].default
    assert not all_metrics()["st_lpips_vgg"].default


def test_the_number_of_patches_stands_beside_a_distance_of_sets():
    fid, psnr = find_metric("fid"), find_metric("psnr-rgb")
    assert fid.counted([{"num_patches": 192, "protocol": "patches"}] * 2) == "192 patches"
    assert fid.counted([{"num_patches": n} for n in (192, 9)]) == "9 to 192 patches"
    assert fid.counted([{"num_patches": 24, "protocol": "clean"}]) == "24 images"
    assert fid.counted([{}]) == psnr.counted([{"num_patches": 192}]) == ""


def test_unknown_metrics_of_a_publication_are_shown_by_their_key_after_the_others():
    assert find_metric("vmaf") == replace(Metric("vmaf", "vmaf", "distortion"), order=1000)
    assert [m.key for m in ordered(["vmaf", "ms-ssim-rgb", "psnr-rgb", "decoding_time"])] == [
        *("psnr-rgb", "ms-ssim-rgb", "vmaf", "decoding_time"),
    ]


def test_an_unknown_metric_or_weight_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"unknown metric 'psnr', choose from .*psnr-rgb"):
        Evaluation(metrics=["psnr"])
    with pytest.raises(ValueError, match=r"no metric takes weights of fid, .*inception"):
        Evaluation(weights={"fid": "x.pth"})


def test_what_cannot_be_had_is_left_out(tmp_path):
    torch.save({}, tmp_path / "empty.pth")
    evaluation = Evaluation(
        metrics=["psnr-rgb", "lpips"], weights={"lpips": str(tmp_path / "empty.pth")}
    )
    evaluation.setup(quiet_trainer(tmp_path), PillowCodec("JPEG", quality=50), "test")
    assert list(evaluation._measures) == ["psnr-rgb"]
