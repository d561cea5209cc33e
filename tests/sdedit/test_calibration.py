import numpy as np
import pytest
import torch

from diffcodec.base.classical import PillowCodec
from diffcodec.sdedit.calibration import Calibration, mse


def test_each_image_comes_with_the_bases_picture_of_it_at_its_point(x):
    calibration, base = Calibration(lambda: x.split(1)), PillowCodec("JPEG", quality=[10, 60])
    for point in (*base.points, base.points[0]):
        base.select(point)
        pairs = calibration.pairs(base)
        assert len(pairs) == len(x)
        for expected, (image, decoded) in zip(x.split(1), pairs, strict=True):
            assert torch.equal(image, expected)
            assert torch.equal(decoded, base.decompress(base.compress(image)))


def test_images_are_loaded_and_coded_once_per_point(x, monkeypatch):
    loaded, coded = [], []
    calibration = Calibration(lambda: loaded.append(x) or x.split(1))
    base = PillowCodec("JPEG", quality=[10, 60])
    compress = base.compress
    monkeypatch.setattr(base, "compress", lambda x: coded.append(x) or compress(x))
    for point in base.points * 2:
        base.select(point)
        calibration.pairs(base)
    assert len(loaded) == 1
    assert len(coded) == len(x) * len(base.points)


def test_without_images_it_says_what_to_give():
    with pytest.raises(ValueError, match=r"codec\.calibration, codec\.strength=FILE"):
        Calibration(None).pairs(PillowCodec("JPEG", quality=[10]))


def test_a_reference_gives_the_error_that_it_has_at_the_bases_rate(x):
    images = x.split(1)
    base, reference = PillowCodec("WEBP", quality=[20]), PillowCodec("JPEG", quality=[10, 30, 60])
    found = Calibration(lambda: images, reference).errors(base)
    own = Calibration(lambda: images).errors(base)
    for image, error, own_error in zip(images, found, own, strict=True):
        pixels = image.shape[-2] * image.shape[-1]
        (stream,) = base.compress(image)
        rate = np.log(8 * len(stream) / pixels)
        points = []
        for point in reference.points:
            reference.select(point)
            (coded,) = reference.compress(image)
            points.append((8 * len(coded) / pixels, mse(image, reference.decompress([coded]))))
        rates, errors = np.log(sorted(points)).T
        assert error == pytest.approx(np.exp(np.interp(rate, rates, errors)))
        assert own_error == pytest.approx(mse(image, base.decompress([stream])))
        assert error != own_error


def test_beyond_the_references_rates_its_nearest_point_counts(x):
    image = x[:1]
    base, reference = PillowCodec("JPEG", quality=[95]), PillowCodec("JPEG", quality=[10, 30])
    (error,) = Calibration(lambda: [image], reference).errors(base)
    reference.select(reference.points[-1])
    assert error == pytest.approx(mse(image, reference.decompress(reference.compress(image))))
