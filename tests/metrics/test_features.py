import numpy as np
import pytest
import torch
from torch.nn import functional as F

from diffcodec.metrics.fid import frechet_distance
from diffcodec.metrics.networks.features import (
    InceptionFeatures,
    RandomFeatures,
    clean_resize,
    cut,
    patches,
    tiles,
)
from tests.metrics.tiny import save_inception

GOLDEN = 139.734924  # sum of the random features of a fixed pattern


@pytest.mark.parametrize(
    ("height", "width", "count"),
    [(512, 768, 6 + 2), (768, 768, 9 + 4), (300, 451, 1), (384, 384, 1 + 1), (383, 800, 3)],
)
def test_patches_follow_the_protocol(height, width, count):
    image = torch.arange(3 * height * width).reshape(3, height, width)
    tiles = patches(image)
    assert tiles.shape == (count, 3, 256, 256)
    assert torch.equal(tiles[0], image[:, :256, :256])


def test_kodak_has_192_patches_and_140_images_of_768_have_1820():
    assert 24 * len(patches(torch.zeros(3, 512, 768))) == 192
    assert 140 * len(patches(torch.zeros(3, 768, 768))) == 1820


def test_second_pass_starts_at_128():
    image = torch.arange(3 * 512 * 512).reshape(3, 512, 512)
    assert torch.equal(patches(image)[4], image[:, 128:384, 128:384])


def test_small_images_have_no_patches():
    assert patches(torch.zeros(3, 255, 900)).shape == (0, 3, 256, 256)


def test_whole_images_are_one_piece():
    image = torch.zeros(3, 100, 300)
    assert cut(image, "whole").shape == (1, 3, 100, 300)
    assert cut(image, "clean").shape == (1, 3, 299, 299)
    assert cut(image, "patches").shape == (0, 3, 256, 256)


def test_tiles_are_the_first_pass_of_the_patches():
    image = torch.arange(3 * 512 * 768).reshape(3, 512, 768)
    assert 24 * len(tiles(image)) == 144
    assert torch.equal(cut(image, "tiles"), patches(image)[:6])


# What clean-fid 0.1.35 makes of the pattern below: build_resizer("clean").
CLEAN = {
    (300, 420): (
        [[26.895315, 77.37037, 113.9194], [90.68614, 131.4135, 115.63338]],
        33525348.66253853,
    ),
    (100, 120): (
        [[0.0, 3.9525113, 69.96037], [111.020134, 155.63702, 168.59045]],
        33527332.24184704,
    ),
}


@pytest.mark.parametrize(("height", "width"), CLEAN)
def test_clean_resizes_as_clean_fid_does(height, width):
    pattern = np.arange(3 * 300 * 420).reshape(300, 420, 3) * 37 % 251
    image = torch.from_numpy(pattern[:height, :width].astype(np.uint8)).permute(2, 0, 1)
    (resized,) = cut(image, "clean")
    values, total = CLEAN[height, width]
    assert torch.equal(resized, clean_resize(image))
    assert resized.shape == (3, 299, 299)
    assert resized.dtype == torch.float32
    assert torch.allclose(resized[:, [0, 150], [0, 77]].T, torch.tensor(values), atol=1e-4)
    assert float(resized.double().sum()) == pytest.approx(total, rel=1e-7)
    assert 0 <= resized.min() <= resized.max() <= 255


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    return InceptionFeatures(save_inception(tmp_path_factory.mktemp("inception") / "random.pth"))


def test_resized_pictures_go_through_the_same_layers(inception):
    x = torch.randint(0, 256, (1, 3, 299, 299), generator=torch.Generator().manual_seed(0)).byte()
    inside, resized = inception(x), inception(x.float())
    assert inside.shape == resized.shape == (1, 2048)
    assert torch.allclose(inside, resized, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(inside, inception(x.float() * 0.9), rtol=1e-3)


def test_random_features_are_fixed():
    x = torch.arange(2 * 3 * 64 * 64).reshape(2, 3, 64, 64).remainder(251).byte()
    features = RandomFeatures()(x)
    assert features.shape == (2, 256)
    # Measured once: another value would make old and new figures incomparable.
    assert features.sum().item() == pytest.approx(GOLDEN, rel=1e-5)
    assert not list(RandomFeatures().parameters())


def test_random_features_see_blur_and_noise(photo):
    network = RandomFeatures()
    tiles = patches((photo[0] * 255).byte())
    blurred = F.avg_pool2d(tiles.float(), 5, 1, 2).byte()
    slightly = F.avg_pool2d(tiles.float(), 3, 1, 1).byte()
    real = network(tiles)
    far, near = (frechet_distance(real, network(t)) for t in (blurred, slightly))
    assert far > near > 0


def test_inception_weights_that_cannot_be_had_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="Inception"):
        InceptionFeatures(str(tmp_path / "missing.pth"))
