import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffcodec.metrics.networks.st_lpips import BlurPool, ShiftTolerantLpips, convolve_and_blur
from tests.metrics.perturbations import NAMED, crop

PAIRS = json.loads(Path(__file__).with_name("trained_networks.json").read_text())["pairs"]


@pytest.fixture(scope="module")
def networks():
    return {net: ShiftTolerantLpips(net) for net in ("alex", "vgg")}


def to_tensor(x):
    return torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)


def check(networks, pair, x):
    changed = np.ascontiguousarray(NAMED[pair["change"]](x))
    if "sha256" in pair:
        assert hashlib.sha256(changed.tobytes()).hexdigest() == pair["sha256"]
    for net, network in networks.items():
        value = network(to_tensor(x), to_tensor(changed))
        assert value == pytest.approx(pair[net], rel=1e-4), (pair["change"], net)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda p: f"{p['photograph']}, {p['change'][:20]}")
def test_it_agrees_with_the_authors_package(networks, pair):
    check(networks, pair, crop(pair["photograph"]))


def test_it_agrees_with_the_authors_package_on_kodak(networks, shared):
    pairs = json.loads((shared / "reference/perceptual/st_lpips_pairs.json").read_text())["pairs"]
    assert len(pairs) == 8
    for pair in pairs:
        image = np.asarray(Image.open(shared / "data/kodak" / pair["image"]).convert("RGB"))
        check(networks, pair, image[64:320, 128:384])


def test_its_map_shows_where_images_differ_and_averages_to_the_distance(networks):
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 96, 128), dtype=np.uint8))
    changed = x.clone()
    changed[:, :32, :32] = 128
    for network in networks.values():
        where = network.map(x, changed)
        assert where.shape == (96, 128)
        assert where[:32, :32].mean() > 10 * where[64:, 80:].mean()
        assert float(where.mean()) == pytest.approx(network(x, changed), rel=0.1)
        assert float(network.map(x, x).abs().max()) == 0


@pytest.mark.parametrize(("height", "width"), [(32, 33), (37, 64), (64, 37), (51, 48)])
def test_the_convolution_and_the_blur_are_computed_as_one(networks, height, width):
    conv, blur = networks["alex"].features[:2]
    assert isinstance(blur, BlurPool)
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(convolve_and_blur(x, conv, blur), blur(conv(x)), rtol=0, atol=1e-5)


def test_gradients_are_finite_where_all_features_are_zero(networks):
    for network in networks.values():
        x = torch.full((1, 3, 48, 48), -1.0, requires_grad=True)
        network.distance(x, torch.zeros(1, 3, 48, 48)).sum().backward()
        assert x.grad.isfinite().all()
        assert x.grad.abs().sum() > 0
        assert not any(p.requires_grad for p in network.parameters())


def test_images_under_32_pixels_have_no_value(networks):
    x = torch.zeros(3, 31, 64, dtype=torch.uint8)
    assert networks["alex"](x, x) is None


def test_a_missing_package_is_one_line_that_says_how_to_install_it(tmp_path):
    with pytest.raises(ValueError, match=r"unknown ST-LPIPS network 'squeeze', choose from"):
        ShiftTolerantLpips("squeeze")
    with pytest.raises(
        ValueError, match=r"no weights for ST-LPIPS \(alex\): .*pip install no-such"
    ):
        ShiftTolerantLpips("alex", "pip://no-such/file.pth")
