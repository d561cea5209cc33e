import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.calibration import Crops
from datamodules.image_sets import Folder, Photos


def test_crops_are_the_middle_of_the_images(tmp_path):
    pixels = np.arange(40 * 30 * 3, dtype=np.uint32).reshape(40, 30, 3) % 256
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.full((8, 20, 3), 51, np.uint8)).save(tmp_path / "b.png")
    first, second = Crops([Folder(".")], str(tmp_path), size=10)()
    expected = torch.from_numpy(pixels[15:25, 10:20].astype(np.float32)) / 255
    torch.testing.assert_close(first, expected.permute(2, 0, 1)[None])
    assert second.shape == (1, 3, 8, 10)
    torch.testing.assert_close(second, torch.full_like(second, 0.2))
    assert len(Crops([Folder(".")], str(tmp_path), count=1)()) == 1


def test_names_choose_from_all_sources_in_their_order():
    sources = [Photos("train"), Photos("val")]
    crops = Crops(sources, names=["rocket.jpg", "motorcycle_left.png"], size=64)
    rocket, motorcycle = crops()
    assert rocket.shape == motorcycle.shape == (1, 3, 64, 64)
    (alone,) = Crops([Photos("val")], size=64)()
    assert torch.equal(rocket, alone)
    with pytest.raises(ValueError, match=r"no image nothing\.png, choose from"):
        Crops(sources, names=["nothing.png"])()


@pytest.mark.parametrize("options", [{"size": 0}, {"count": 0}])
def test_crops_of_nothing_are_refused(options):
    with pytest.raises(ValueError, match="must be at least 1"):
        Crops([], **options)
