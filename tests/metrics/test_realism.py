"""What metrics of realism say of changes that a person would rank without hesitation."""

import numpy as np
import pytest
import torch
from skimage import data

from diffcodec.metrics.fid import frechet_distance
from diffcodec.metrics.kid import kernel_distance
from diffcodec.metrics.networks.efficientnet import EfficientNetFeatures
from diffcodec.metrics.networks.features import RandomFeatures, patches
from diffcodec.metrics.networks.st_lpips import ShiftTolerantLpips
from tests.metrics.perturbations import blurred, noisy, quantised, with_foreign_texture

PHOTOGRAPHS = [data.astronaut(), data.chelsea(), data.coffee()]
OTHERS = PHOTOGRAPHS[1:] + PHOTOGRAPHS[:1]
SIGMA = 1


def to_tensor(x):
    return torch.from_numpy(np.ascontiguousarray(x)).permute(2, 0, 1)


@pytest.fixture(scope="module")
def st_lpips():
    return ShiftTolerantLpips("alex")


@pytest.mark.parametrize(
    "levels",
    [
        [lambda x: blurred(x, 1), lambda x: blurred(x, 2), lambda x: blurred(x, 3)],
        [lambda x: noisy(x, 5), lambda x: noisy(x, 15), lambda x: noisy(x, 30)],
        [lambda x: quantised(x, 16), lambda x: quantised(x, 48), lambda x: quantised(x, 96)],
    ],
    ids=["blur", "noise", "quantisation"],
)
def test_more_of_a_distortion_is_worse(st_lpips, levels):
    for x in PHOTOGRAPHS:
        distances = [st_lpips(to_tensor(x), to_tensor(change(x))) for change in levels]
        assert distances == sorted(distances)
        assert distances[0] > 0.02


def test_foreign_texture_is_worse_than_the_blur_that_it_hides(st_lpips):
    for x, other in zip(PHOTOGRAPHS, OTHERS, strict=True):
        blur, foreign = blurred(x, SIGMA), with_foreign_texture(x, other, SIGMA)
        original = to_tensor(x)
        assert st_lpips(original, to_tensor(foreign)) > 1.2 * st_lpips(original, to_tensor(blur))


def test_a_trained_embedding_sees_foreign_texture_and_a_random_one_rewards_it():
    pairs = [*zip(PHOTOGRAPHS, OTHERS, strict=True)]
    sets = [
        torch.cat([patches(to_tensor(x)) for x in images])
        for images in (
            PHOTOGRAPHS,
            [blurred(x, SIGMA) for x in PHOTOGRAPHS],
            [with_foreign_texture(x, other, SIGMA) for x, other in pairs],
        )
    ]
    trained, random = EfficientNetFeatures(), RandomFeatures()
    real, blur, foreign = map(trained, sets)
    assert frechet_distance(real, foreign) > 2 * frechet_distance(real, blur)
    assert kernel_distance(real, foreign) > kernel_distance(real, blur)
    real, blur, foreign = map(random, sets)
    assert frechet_distance(real, foreign) < frechet_distance(real, blur)  # the wrong way round
