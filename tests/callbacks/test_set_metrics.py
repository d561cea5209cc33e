import pytest
import torch
from torch.nn import functional as F
from torchmetrics.image.fid import FrechetInceptionDistance

from callbacks.set_metrics import (
    InceptionFeatures,
    RandomFeatures,
    frechet_distance,
    kernel_distance,
    patches,
)

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


@pytest.mark.parametrize("count", [40, 700])
def test_frechet_distance_of_gaussians(count):
    # Two sample sets with known moments: whitened noise, scaled and shifted.
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    noise -= noise.mean(0)
    white = noise @ torch.linalg.inv(torch.linalg.cholesky(noise.T.cov())).T
    a, b = torch.rand(2, 6, generator=generator, dtype=torch.float64) + 0.5
    shift = torch.arange(6.0, dtype=torch.float64)
    expected = shift.square().sum() + (a - b).square().sum()
    assert frechet_distance(white * a, white * b + shift) == pytest.approx(float(expected))


def test_frechet_distance_agrees_with_torchmetrics():
    class Passthrough(torch.nn.Identity):
        num_features = 8

    generator = torch.Generator().manual_seed(1)
    real = torch.randn(300, 8, generator=generator, dtype=torch.float64)
    fake = torch.randn(200, 8, generator=generator, dtype=torch.float64) * 1.3 + 0.2
    metric = FrechetInceptionDistance(feature=Passthrough())
    metric.update(real, real=True)
    metric.update(fake, real=False)
    assert frechet_distance(real, fake) == pytest.approx(float(metric.compute()), rel=1e-6)


def test_frechet_distance_of_equal_sets_is_zero_with_fewer_samples_than_features():
    features = torch.randn(9, 256, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)


def test_kernel_distance_by_its_definition():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    y = torch.randn(12, 5, generator=generator, dtype=torch.float64) + 0.5

    def k(a, b):
        return (a @ b / 5 + 1) ** 3

    n = len(x)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    expected = (
        sum(k(x[i], x[j]) for i, j in pairs) / (n * (n - 1))
        + sum(k(y[i], y[j]) for i, j in pairs) / (n * (n - 1))
        - 2 * sum(k(a, b) for a in x for b in y) / n**2
    )
    assert kernel_distance(x, y) == pytest.approx(float(expected))


def test_kernel_distance_of_large_sets_is_reproducible_and_near_that_of_all():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1500, 4, generator=generator)
    y = torch.randn(1500, 4, generator=generator) + 1
    state = torch.get_rng_state()
    first = kernel_distance(x, y)
    assert torch.equal(torch.get_rng_state(), state)
    assert kernel_distance(x, y) == first
    assert first == pytest.approx(kernel_distance(x[:1000], y[:1000]), rel=0.2)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_one_sample_is_not_a_set(distance):
    with pytest.raises(ValueError, match="at least two"):
        distance(torch.zeros(1, 4), torch.zeros(5, 4))


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
