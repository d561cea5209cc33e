import pytest
import torch
from torch.nn import functional as F

from diffcodec.metrics.fid import frechet_distance
from diffcodec.metrics.networks.features import InceptionFeatures, RandomFeatures, cut, patches

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
    assert cut(image, "patches").shape == (0, 3, 256, 256)


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
