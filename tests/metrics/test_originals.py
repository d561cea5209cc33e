import torch

from diffcodec.metrics.networks.originals import Originals, normalized


def image(value):
    return torch.full((3, 4, 5), value, dtype=torch.uint8)


def counting(calls):
    def embed(x):
        calls.append(x)
        return [x, x[..., ::2]]

    return embed


def test_features_of_an_image_are_computed_once():
    calls = []
    originals = Originals(counting(calls))
    first = originals(image(3))
    assert originals(image(3).clone()) is first
    assert torch.equal(first[0], normalized(image(3)))
    originals(image(4))
    assert len(calls) == 2


def test_no_more_is_kept_than_the_limit():
    calls = []
    size = 4 * (60 + 36)
    originals = Originals(counting(calls), limit=2 * size - 1)
    for value in (1, 2, 1, 2):
        assert torch.equal(originals(image(value))[0], normalized(image(value)))
    assert len(calls) == 3  # the second image did not fit


def test_images_are_normalized_to_the_range_of_the_networks():
    assert normalized(image(0)).unique().tolist() == [-1.0]
    assert normalized(image(255)).unique().tolist() == [1.0]
