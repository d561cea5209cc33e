import pytest
import torch

from diffcodec.base.classical import PillowCodec
from diffcodec.sdedit.calibration import Calibration


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
