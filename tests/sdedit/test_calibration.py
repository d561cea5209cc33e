import logging

import numpy as np
import pytest
import torch
from rich.progress import Progress

from diffcodec.base.classical import PillowCodec
from diffcodec.sdedit.calibration import Calibration, mse
from diffcodec.sdedit.strength import find_index, num_trials


def test_each_image_comes_with_the_bases_picture_of_it_at_its_point(x):
    calibration, base = Calibration(lambda: x.split(1)), PillowCodec("JPEG", quality=[10, 60])
    for point in (*base.points, base.points[0]):
        pairs = calibration.pairs(base, point)
        assert len(pairs) == len(x)
        for expected, (image, decoded) in zip(x.split(1), pairs, strict=True):
            assert torch.equal(image, expected)
            assert torch.equal(decoded, base.decompress(base.compress(image, point), point))


def test_images_are_loaded_and_coded_once_per_point(x, monkeypatch):
    loaded, coded = [], []
    calibration = Calibration(lambda: loaded.append(x) or x.split(1))
    base = PillowCodec("JPEG", quality=[10, 60])
    compress = base.compress
    monkeypatch.setattr(base, "compress", lambda x, point: coded.append(x) or compress(x, point))
    for point in base.points * 2:
        calibration.pairs(base, point)
    assert len(loaded) == 1
    assert len(coded) == len(x) * len(base.points)


def test_without_images_it_says_what_to_give():
    jpeg = PillowCodec("JPEG", quality=[10])
    with pytest.raises(ValueError, match=r"codec\.calibration, codec\.strength=FILE"):
        Calibration(None).pairs(jpeg, jpeg.points[0])


@pytest.mark.parametrize("rule", ["auto", "perceptual"])
def test_the_message_names_the_rule_that_needs_images(make_codec, rule):
    with pytest.raises(ValueError, match=f"strength={rule} needs calibration images"):
        make_codec("fast", strength=rule).calibrate()


def test_a_reference_gives_the_error_that_it_has_at_the_bases_rate(x):
    images = x.split(1)
    base, reference = PillowCodec("WEBP", quality=[20]), PillowCodec("JPEG", quality=[10, 30, 60])
    found = Calibration(lambda: images, reference).errors(base, base.points[0])
    own = Calibration(lambda: images).errors(base, base.points[0])
    for image, error, own_error in zip(images, found, own, strict=True):
        pixels = image.shape[-2] * image.shape[-1]
        (stream,) = base.compress(image)
        rate = np.log(8 * len(stream) / pixels)
        points = []
        for point in reference.points:
            (coded,) = reference.compress(image, point)
            points.append(
                (8 * len(coded) / pixels, mse(image, reference.decompress([coded], point)))
            )
        rates, errors = np.log(sorted(points)).T
        assert error == pytest.approx(np.exp(np.interp(rate, rates, errors)))
        assert own_error == pytest.approx(mse(image, base.decompress([stream])))
        assert error != own_error


def test_beyond_the_references_rates_its_nearest_point_counts(x):
    image = x[:1]
    base, reference = PillowCodec("JPEG", quality=[95]), PillowCodec("JPEG", quality=[10, 30])
    (error,) = Calibration(lambda: [image], reference).errors(base, base.points[0])
    assert error == pytest.approx(
        mse(
            image,
            reference.decompress(
                reference.compress(image, reference.points[-1]), reference.points[-1]
            ),
        )
    )


def test_the_cost_is_said_before_and_a_bar_shows_what_it_is_for(make_codec, x, caplog, monkeypatch):
    shown, advanced = [], []

    class Bar(Progress):
        def add_task(self, description, **options):
            shown.append((description, options["total"], list(caplog.messages)))
            return super().add_task(description, **options)

        def advance(self, task, advance=1):
            advanced.append(task)
            super().advance(task, advance)

    monkeypatch.setattr("diffcodec.sdedit.codec.progress", lambda: Bar(disable=True))
    caplog.set_level(logging.INFO)
    codec = make_codec("fast", "medium", strength="auto", calibration=lambda: x.split(1))
    codec.calibrate()
    trials = num_trials(codec.prior.max_sigma)
    evaluations = 2 * trials * (2 * 1 + 2 * 3)  # images, points of each preset and their steps
    cost = f"calibrating 4 strengths on 2 images, at most {evaluations} network evaluations"
    assert {(text, total) for text, total, _ in shown} == {
        (f"calibrating strength=auto of {preset} at quality={quality}", 2 * trials)
        for quality in (10, 60)
        for preset in ("fast", "medium")
    }
    assert all(cost in messages[-1] for _, _, messages in shown)
    assert 0 < len(advanced) <= 4 * 2 * trials
    caplog.clear()
    codec.calibrate()
    assert not caplog.messages  # all are known


@pytest.mark.parametrize("max_sigma", [0.006, 0.1, 1.0, 4.0])
def test_no_search_takes_more_trials_than_are_told(max_sigma):
    for bound in (0.0, max_sigma / 2, 10.0):
        tried: list[float] = []

        def excess(sigma, bound=bound, tried=tried):
            tried.append(sigma)
            return 0 if sigma <= bound else 2

        find_index(excess, max_sigma)
        assert len(tried) <= num_trials(max_sigma)
