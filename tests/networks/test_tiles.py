import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from diffcodec.coding.integer_convolutions import ExactConvolutions
from diffcodec.networks.tiles import in_tiles, reach


def conv(channels: int = 2, size: int = 3, stride: int = 1, **options) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, size, stride=stride, padding=size // 2, **options)


def up(channels: int = 2) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(channels, channels, 5, stride=2, padding=2, output_padding=1)


NETWORKS = {
    # network, up, down, step, reach
    "3x3": (nn.Sequential(conv()), 1, 1, 1, 1),
    "7x7 and 5x5": (nn.Sequential(conv(size=7), nn.ReLU(), conv(size=5)), 1, 1, 1, 5),
    "in fours": (nn.Sequential(conv()), 1, 1, 4, 4),
    "down twice": (nn.Sequential(conv(size=5, stride=2), conv(size=5, stride=2)), 1, 4, 4, 8),
    "up twice": (nn.Sequential(up(), nn.LeakyReLU(), up()), 4, 1, 1, 2),
    "pointwise": (nn.Sequential(conv(size=1), nn.Sigmoid()), 1, 1, 1, 0),
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_the_reach_is_enough_and_found_by_trying(name):
    network, up, down, step, expected = NETWORKS[name]
    scale = {"step": step, "up": up, "down": down}
    x = torch.randn(1, 2, 72, 52, dtype=torch.float64)
    network = network.double()
    margin = reach(network, x, most=16, **scale)
    assert margin == expected
    whole = network(x)
    tiled = in_tiles(network, x, window=36, margin=margin, **scale)
    torch.testing.assert_close(tiled, whole, rtol=1e-12, atol=1e-12)
    if margin:
        less = in_tiles(network, x, window=36, margin=margin - step, **scale)
        assert (less - whole).abs().max() > 1e-6


def test_integers_are_the_same_to_the_last_bit():
    torch.manual_seed(0)
    network = ExactConvolutions(nn.Sequential(up(), nn.LeakyReLU(0.2), conv()), name="test")
    x = torch.randn(1, 2, 40, 70) * 10
    margin = reach(network, x, most=8, up=2)
    assert torch.equal(in_tiles(network, x, window=16, margin=margin, up=2), network(x))


def test_a_small_input_is_one_call():
    seen = []

    def network(x):
        seen.append(x.shape)
        return x

    in_tiles(network, torch.zeros(1, 1, 16, 10), window=16, margin=4)
    assert seen == [(1, 1, 16, 10)]


@given(
    steps=st.tuples(*[st.integers(1, 60)] * 2),
    step=st.sampled_from([1, 3, 8]),
    window=st.integers(3, 30),
    margin=st.integers(0, 14),
)
def test_tiles_are_few_of_one_size_and_leave_nothing_out(steps, step, window, margin):
    margin = min(margin, (window - 1) // 2) * step
    height, width = (side * step for side in steps)
    x = torch.arange(height * width, dtype=torch.float32).reshape(1, 1, height, width)
    window *= step
    seen = []

    def network(part):
        seen.append((*part.shape[-2:], *divmod(int(part[0, 0, 0, 0]), width)))
        return part

    assert torch.equal(in_tiles(network, x, window=window, margin=margin, step=step), x)
    (size,) = {part[:2] for part in seen}
    assert max(size) <= window
    assert all(place % step == 0 for part in seen for place in part)
    least = 1
    for side in (height, width):
        least *= max(1, -(-(side - 2 * margin) // (window - 2 * margin)))
    assert len(seen) <= least


def test_what_looks_at_the_whole_image_is_refused():
    def centred(x):
        return x - x.mean((2, 3), keepdim=True)

    with pytest.raises(ValueError, match="reaches beyond 20 values: use a larger window"):
        reach(centred, torch.zeros(1, 1, 8, 8), most=20)
    with pytest.raises(ValueError, match="reaches beyond 2 values"):
        reach(nn.Sequential(conv(size=7)), torch.zeros(1, 2, 8, 8), most=2)


def test_a_window_without_a_middle_is_refused():
    with pytest.raises(ValueError, match="twice the margin of 8, got 16"):
        in_tiles(lambda x: x, torch.zeros(1, 1, 40, 8), window=16, margin=8)


def test_a_reach_of_exactly_the_largest_one_is_accepted():
    network = nn.Sequential(conv(size=7))
    assert reach(network, torch.zeros(1, 2, 8, 8), most=3) == 3
    with pytest.raises(ValueError, match="reaches beyond 2 values"):
        reach(network, torch.zeros(1, 2, 8, 8), most=2)
