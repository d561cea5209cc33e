"""An evaluation that was stopped goes on, and its figures are those of one that was not."""

import json
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import Callback

from callbacks.curves import RateCurves
from callbacks.evaluation import Evaluation
from callbacks.reconstructions import Reconstructions
from datamodules.files import ImageReadError
from diffcodec.base.classical import PillowCodec
from diffcodec.points import group_by_bytes
from tests.trainers import quiet_trainer

METRICS = ["psnr-rgb", "fd_random", "encoding_time"]


class Killed(BaseException):
    pass


class Kill(Callback):
    """Ends the test before its n-th batch, counted over all passes."""

    def __init__(self, count=None):
        self.count, self.seen = count, []

    def on_test_batch_start(self, trainer, pl_module, batch, *_):
        if len(self.seen) == self.count:
            raise Killed
        self.seen.append((pl_module.point.name, batch["index"].tolist()))


def evaluate(folder: Path, datamodule, kill: Kill, **options):
    """As experiments.run: one pass for each group of points."""
    codec = PillowCodec("JPEG", quality=[10, 50, 90])
    codec.save_hyperparameters({"codec": {"quality": [10, 50, 90]}, **options})
    evaluation = Evaluation(metrics=METRICS, protocol="whole", folder=str(folder))
    curves = RateCurves("jpeg", str(folder))
    pictures = Reconstructions(str(folder), max_images=2)
    trainer = quiet_trainer(folder, callbacks=[kill, evaluation, curves, pictures])
    for points in group_by_bytes(codec.points):
        codec.measure(points)
        trainer.test(codec, datamodule=datamodule, verbose=False)
    return curves.results


def figures(results):
    return [
        (r.point.name, {k: v for k, v in r.metrics.items() if not k.endswith("_time")}, r.skipped)
        for r in results
    ]


@pytest.mark.parametrize(
    "count", [1, 7, 20, *(pytest.param(n, marks=pytest.mark.slow) for n in (6, 10))]
)
def test_the_same_command_goes_on(count, make_datamodule, tmp_path):
    whole = evaluate(tmp_path / "whole", make_datamodule(), Kill())
    folder = tmp_path / "killed"
    with pytest.raises(Killed):
        evaluate(folder, make_datamodule(), Kill(count))
    again = Kill()
    results = evaluate(folder, make_datamodule(), again)
    assert figures(results) == figures(whole)
    # 21 batches in all, and one of no image for each pass that was over.
    measured = [batch for batch in again.seen if batch[1]]
    assert len(measured) == 21 - count
    assert len(again.seen) - len(measured) == count // 7
    pictures = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("000*.png")}
    for path, data in pictures.items():
        assert (tmp_path / "whole" / path).read_bytes() == data
    assert len(pictures) == 2 + 2 * 3 * 2


def test_what_was_measured_with_other_settings_is_measured_again(make_datamodule, tmp_path):
    with pytest.raises(Killed):
        evaluate(tmp_path, make_datamodule(), Kill(5), seed=0)
    again = Kill()
    evaluate(tmp_path, make_datamodule(), again, seed=1)
    assert len(again.seen) == 21


def test_images_that_moved_are_measured_again(make_datamodule, crops, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for path in crops.iterdir():
        (images / path.name).write_bytes(path.read_bytes())
    with pytest.raises(Killed):
        evaluate(tmp_path, make_datamodule(root=str(images)), Kill(5))
    (images / "0.png").rename(images / "9.png")
    again = Kill()
    evaluate(tmp_path, make_datamodule(root=str(images)), again)
    assert len(again.seen) == 21


@pytest.fixture
def with_broken(crops, tmp_path):
    """The images, of which the fourth is cut off."""
    images = tmp_path / "images"
    images.mkdir()
    for path in crops.iterdir():
        (images / path.name).write_bytes(path.read_bytes())
    broken = images / "3.png"
    broken.write_bytes(broken.read_bytes()[:3000])
    return images


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_image_stops_by_name_and_keeps_what_was_measured(
    with_broken, make_datamodule, tmp_path, num_workers
):
    make = {"root": str(with_broken), "num_workers": num_workers}
    with pytest.raises(ImageReadError, match=r"3\.png.*datamodule.on_error=skip"):
        evaluate(tmp_path, make_datamodule(**make), Kill())
    again = Kill()
    results = evaluate(tmp_path, make_datamodule(on_error="skip", **make), again)
    assert [index for point, index in again.seen if point == "quality=10"] == [
        *([], [4], [5], [6]),
    ]
    assert [result.skipped for result in results] == [["3.png"]] * 3
    meta = json.loads((tmp_path / "curve.json").read_text())["meta"]
    assert (meta["num_images"], meta["num_skipped"], meta["skipped"]) == (6, 1, ["3.png"])


@pytest.mark.parametrize("eval_batch_size", [1, 4])
def test_skipped_images_change_no_other(with_broken, make_datamodule, tmp_path, eval_batch_size):
    options = {"root": str(with_broken), "on_error": "skip", "eval_batch_size": eval_batch_size}
    results = evaluate(tmp_path / "skipped", make_datamodule(**options), Kill())
    (with_broken / "3.png").unlink()
    without = evaluate(tmp_path / "without", make_datamodule(root=str(with_broken)), Kill())
    assert [f[1] for f in figures(results)] == [f[1] for f in figures(without)]


def test_an_image_that_is_mended_is_measured_after_all(
    with_broken, crops, make_datamodule, tmp_path
):
    options = {"root": str(with_broken), "on_error": "skip"}
    with pytest.raises(Killed):
        evaluate(tmp_path, make_datamodule(**options), Kill(6))
    (with_broken / "3.png").write_bytes((crops / "3.png").read_bytes())
    results = evaluate(tmp_path, make_datamodule(**options), Kill())
    assert [len(result.rows) for result in results] == [7, 7, 7]
    assert not any(result.skipped for result in results)


def test_a_set_without_a_readable_image_is_an_error(make_datamodule, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of the 1 images could be read.*a\.png"):
        evaluate(tmp_path, make_datamodule(root=str(images), on_error="skip"), Kill())


def test_an_unknown_choice_is_refused(make_datamodule):
    with pytest.raises(ValueError, match="unknown on_error 'ignore', choose from stop, skip"):
        make_datamodule(on_error="ignore")
