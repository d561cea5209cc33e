import numpy as np
import pytest
from PIL import Image

from experiments.comparison.maps import draw_maps
from experiments.comparison.pictures import Pictures


def save(path, pixels):
    Image.fromarray(pixels).save(path)
    return path.name


@pytest.fixture
def pictures(tmp_path):
    """A texture, one reconstruction that lacks it in a corner and one that lacks less of it."""
    original = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    items = []
    for name, side in (("much", 32), ("little", 8)):
        decoded = original.copy()
        decoded[:side, :side] = 128
        items.append({"src": save(tmp_path / f"{name}.png", decoded), "map": None})
    return Pictures("a.png", 96, 64, save(tmp_path / "original.png", original), items)


def brightness(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("L")).astype(float)


def test_maps_are_bright_where_pictures_differ_and_share_a_scale(pictures, tmp_path):
    draw_maps([pictures], tmp_path)
    much, little = (brightness(tmp_path / item["map"]) for item in pictures.items)
    assert much.shape == (64, 96)
    assert much[:24, :24].mean() > 3 * much[40:, 60:].mean()
    assert much.max() > little.max()  # on a scale of its own it would be as bright
    assert 0 < pictures.map_scale < 10
    assert [item["map"] for item in pictures.items] == ["much.st_lpips.png", "little.st_lpips.png"]


def test_small_pictures_have_no_maps(pictures, tmp_path):
    pictures.width = 31
    draw_maps([pictures], tmp_path)
    assert pictures.map_scale is None
    assert [item["map"] for item in pictures.items] == [None, None]
