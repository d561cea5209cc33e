import pytest
import torch

from diffcodec.networks.padding import crop_center, pad_around, pad_to_multiple


@pytest.mark.parametrize(
    ("size", "padded"), [((5, 9), (8, 12)), ((8, 4), (8, 4)), ((1, 1), (4, 4)), ((3, 40), (4, 40))]
)
def test_the_right_and_lower_border_are_repeated(size, padded):
    x = torch.rand(2, 3, *size)
    out = pad_to_multiple(x, 4)
    assert out.shape == (2, 3, *padded)
    assert torch.equal(out[..., : size[0], : size[1]], x)
    corner = x[..., -1:, -1:].expand(2, 3, padded[0] - size[0], padded[1] - size[1])
    assert torch.equal(out[..., size[0] :, size[1] :], corner)


def test_small_images_are_filled_up_to_a_side():
    assert pad_to_multiple(torch.rand(1, 3, 5, 40), 4, min_side=16).shape == (1, 3, 16, 40)


@pytest.mark.parametrize("size", [(64, 128), (1, 1), (65, 63), (40, 200)])
def test_padding_around_is_compressais_and_is_taken_away_again(size):
    from compressai.ops import compute_padding

    x = torch.rand(2, 3, *size)
    out = pad_around(x, 64)
    borders, _ = compute_padding(*size, min_div=64)
    assert torch.equal(out, torch.nn.functional.pad(x, borders, mode="replicate"))
    assert torch.equal(crop_center(out, *size), x)
