"""An evaluation that was stopped goes on, and its figures are those of one that was not."""

import json
import os
import shutil
from pathlib import Path

import pytest
from lightning.pytorch.callbacks import Callback
from PIL import Image

from callbacks.curves import RateCurves
from callbacks.evaluation import Evaluation
from callbacks.reconstructions import Reconstructions
from datamodules.files import ImageReadError
from datamodules.image_sets import Folder
from diffcodec.base.classical import PillowCodec
from diffcodec.points import group_by_bytes
from experiments.comparison.compatibility import check
from experiments.comparison.lines import join
from experiments.comparison.runs import find_runs
from tests.trainers import measure, quiet_trainer

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
        self.seen.append((pl_module.points[0].name, batch["index"].tolist()))


def evaluate(folder: Path, datamodule, kill: Kill, **options):
    """As experiments.run: one pass for each group of points."""
    codec = PillowCodec("JPEG", quality=[10, 50, 90])
    codec.save_hyperparameters({"codec": {"quality": [10, 50, 90]}, **options})
    evaluation = Evaluation(metrics=METRICS, protocol="whole", folder=str(folder))
    curves = RateCurves("jpeg", str(folder))
    pictures = Reconstructions(str(folder), max_images=2)
    trainer = quiet_trainer(folder, callbacks=[kill, evaluation, curves, pictures])
    for points in group_by_bytes(codec.points):
        measure(trainer, codec, datamodule, points=points)
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


class Meddle(Callback):
    """Another process that removes rows of this run, or adds some, while it is under way."""

    def __init__(self, folder, change):
        self.folder, self.change = folder, change

    def on_test_epoch_end(self, trainer, pl_module):
        self.change(self.folder / "measured" / "process-0.jsonl")


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"")])
def test_rows_that_do_not_cover_the_set_are_an_error_and_overwrite_nothing(
    make_datamodule, tmp_path, change
):
    with pytest.raises(Killed):
        evaluate(tmp_path, make_datamodule(), Kill(5))
    (tmp_path / "curve.json").write_text("mine")
    with pytest.raises(
        ValueError, match=r"5 of 7 images have no row at quality=10 \(0\.png, 1\.png"
    ):
        evaluate(tmp_path, make_datamodule(), Meddle(tmp_path, change))
    assert (tmp_path / "curve.json").read_text() == "mine"
    assert not (tmp_path / "images.csv").exists()


def repaint(path: Path, angle: int) -> None:
    """Other pixels in a file of the same size and time."""
    before = path.stat()
    Image.open(path).rotate(angle).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture
def own_images(crops, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(crops, images)
    return images


def test_images_that_changed_are_measured_again_and_the_others_are_not(
    own_images, make_datamodule, tmp_path
):
    root = {"root": str(own_images)}
    with pytest.raises(Killed):
        evaluate(tmp_path, make_datamodule(**root), Kill(5))
    repaint(own_images / "1.png", 180)
    again = Kill(1)
    with pytest.raises(Killed):
        evaluate(tmp_path, make_datamodule(**root), again)
    assert again.seen == [("quality=10", [1])]
    repaint(own_images / "1.png", 90)
    again = Kill()
    results = evaluate(tmp_path, make_datamodule(**root), again)
    assert [index for point, index in again.seen if point == "quality=10"] == [[1], [5], [6]]
    assert figures(results) == figures(evaluate(tmp_path / "w", make_datamodule(**root), Kill()))


def test_what_older_code_measured_is_measured_again(make_datamodule, tmp_path, monkeypatch):
    with pytest.raises(Killed):
        evaluate(tmp_path, make_datamodule(), Kill(5))
    monkeypatch.setattr("callbacks.evaluation.sources_digest", lambda *_: "changed")
    again = Kill()
    evaluate(tmp_path, make_datamodule(), again)
    assert len(again.seen) == 21


def test_what_an_earlier_run_left_is_not_this_run_s(make_datamodule, tmp_path, caplog):
    evaluate(tmp_path, make_datamodule(), Kill())
    (tmp_path / "gamma=0.8").mkdir()
    shutil.copy(tmp_path / "curve.json", tmp_path / "gamma=0.8")
    evaluate(tmp_path / "below", make_datamodule(), Kill())  # a run of its own
    shutil.rmtree(tmp_path / "measured")
    first = (tmp_path / "curve.json").read_bytes()
    evaluate(tmp_path, make_datamodule(), Kill())
    assert f"results in {tmp_path} are now in {tmp_path}/earlier-1" in caplog.text
    found = [Path(run.source).relative_to(tmp_path) for run in find_runs([str(tmp_path)])]
    assert [str(path) for path in found] == ["below/curve.json", "curve.json"]
    assert (tmp_path / "earlier-1" / "curve.json.old").read_bytes() == first
    assert (tmp_path / "earlier-1" / "gamma=0.8" / "curve.json.old").is_file()
    assert (tmp_path / "earlier-1" / "images.csv").is_file()
    assert not (tmp_path / "gamma=0.8").exists()


def test_sets_of_one_name_and_other_pixels_are_told_apart(own_images, make_datamodule, tmp_path):
    def digest(name, **options):
        options = {"root": str(own_images), **options}
        evaluate(tmp_path / name, make_datamodule(**options), Kill())
        return json.loads((tmp_path / name / "curve.json").read_text())["meta"]["digest"]

    whole = digest("whole")
    assert digest("again") == whole
    other = {
        "skip": digest("skip", test=Folder(skip=1, limit=6)),
        "limit": digest("limit", test=Folder(limit=6)),
        "crop": digest("crop", eval_transform=Corner()),
    }
    picture = Image.open(own_images / "3.png").rotate(180)
    picture.save(own_images / "3.png")
    other["pixels"] = digest("pixels")
    (own_images / "3.png").rename(own_images / "33.png")
    other["name"] = digest("name")
    assert len({whole, *other.values()}) == 6
    runs = find_runs([str(tmp_path / name) for name in ("whole", "pixels")])
    with pytest.raises(ValueError, match=r"cannot be compared: digest of the originals: \w+ \("):
        check(join(runs, ["run"])[0])


class Corner:
    """The upper left corner, of the size of the other crops."""

    def __call__(self, image):
        return image.crop((0, 0, 64, 64))
