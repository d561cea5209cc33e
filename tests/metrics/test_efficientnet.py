import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffcodec.metrics.fid import frechet_distance
from diffcodec.metrics.kid import kernel_distance
from diffcodec.metrics.networks.efficientnet import EfficientNetFeatures
from diffcodec.metrics.networks.features import patches
from tests.metrics.perturbations import NAMED, crop

REFERENCE = json.loads(Path(__file__).with_name("trained_networks.json").read_text())


@pytest.fixture(scope="module")
def network():
    return EfficientNetFeatures()


def to_tensor(x):
    return torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)


@pytest.mark.parametrize("name", ["astronaut", "chelsea"])
def test_features_and_classes_agree_with_the_published_implementation(network, name):
    expected = REFERENCE["efficientnet"][name]
    (features,) = network(to_tensor(crop(name))[None])
    assert features.shape == (1280,)
    assert features.double().sum().item() == pytest.approx(expected["sum"], rel=1e-4)
    assert features.double().norm().item() == pytest.approx(expected["norm"], rel=1e-4)
    torch.testing.assert_close(features[:4], torch.tensor(expected["first"]), rtol=1e-4, atol=1e-5)
    assert network.classifier(features).argmax().item() == expected["class"]


def test_uint8_and_float_images_give_the_same(network):
    x = to_tensor(crop("astronaut"))[None]
    torch.testing.assert_close(network(x), network(x.float()))


@pytest.mark.slow
def test_distances_of_kodak_agree_with_the_published_implementation(network, shared):
    expected = json.loads((shared / "reference/perceptual/effnet_distances.json").read_text())
    files = sorted((shared / "data/kodak").glob("*.png"))
    photographs = [np.asarray(Image.open(file).convert("RGB")) for file in files]

    def features(change):
        return torch.cat([network(patches(to_tensor(change(x)))) for x in photographs])

    real = features(lambda x: x)
    assert len(real) == 192
    for name, values in expected["changes"].items():
        fake = features(NAMED[name])
        assert frechet_distance(real, fake) == pytest.approx(values["frechet"], rel=1e-4)
        kernel = values["kernel, unbiased over all"]
        assert kernel_distance(real, fake) == pytest.approx(kernel, rel=1e-4)
