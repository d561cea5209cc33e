from itertools import pairwise

import pytest
import torch

from diffcodec.diffusion.sampler import dpmpp_2m
from diffcodec.diffusion.schedule import karras_sigmas
from diffcodec.diffusion.tiling import TiledDenoiser

SIGMA = torch.tensor(0.3)


def identity(x, sigma):
    assert x.shape[-2:] == (16, 16)
    return x


@pytest.mark.parametrize("size", [(16, 16), (16, 40), (37, 53), (64, 17)])
def test_a_constant_and_a_gradient_have_no_seams(size):
    rows, columns = torch.meshgrid(*map(torch.arange, size), indexing="ij")
    tiled = TiledDenoiser(identity, 16)
    for image in (torch.full(size, 0.7), rows / 64 + columns / 128):
        x = image.float().expand(2, 3, *size)
        torch.testing.assert_close(tiled(x, SIGMA), x, rtol=1e-6, atol=1e-6)


def test_what_tiles_disagree_on_is_blended_without_a_jump():
    # Each tile brings its own brightness.
    x = torch.rand(1, 1, 16, 96)
    values = iter([0.0, 1.0] * 20)
    out = TiledDenoiser(lambda x, sigma: torch.full_like(x, next(values)), 16, 0.5)(x, SIGMA)
    assert out.min() == 0
    assert out.max() > 0.8
    assert out.diff(dim=-1).abs().max() < 0.2


def test_it_is_blended_at_every_step():
    seen = []

    def denoiser(x, sigma):
        seen.append(x.shape)
        return x * 0.5

    x = torch.randn(1, 3, 16, 28)
    sigmas = karras_sigmas(0.5, 3)
    out = dpmpp_2m(TiledDenoiser(denoiser, 16), x, sigmas)
    assert len(seen) == 3 * 2
    torch.testing.assert_close(out, dpmpp_2m(lambda x, sigma: x * 0.5, x, sigmas))


def test_every_pixel_is_covered_and_neighbours_overlap():
    tiled = TiledDenoiser(identity, 16, 0.25)
    for side in range(16, 100):
        starts = tiled.starts(side)
        assert starts[0] == 0
        assert starts[-1] == side - 16
        assert all(0 < b - a <= 12 for a, b in pairwise(starts))


def test_gradients_flow_through():
    x = torch.randn(1, 1, 16, 20, requires_grad=True)
    TiledDenoiser(identity, 16)(x, SIGMA).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x))


@pytest.mark.parametrize(("window", "overlap"), [(0, 0.25), (16, 0.0), (16, 1.0)])
def test_bad_windows_are_refused(window, overlap):
    with pytest.raises(ValueError, match=r"window|overlap"):
        TiledDenoiser(identity, window, overlap)


def test_a_side_shorter_than_the_window_is_refused():
    with pytest.raises(ValueError, match="a side of 10 is shorter"):
        TiledDenoiser(identity, 16)(torch.zeros(1, 3, 10, 16), SIGMA)
