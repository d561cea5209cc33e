from itertools import pairwise

import pytest
import torch

from diffcodec.diffusion.sampler import dpmpp_2m
from diffcodec.diffusion.schedule import karras_sigmas
from diffcodec.diffusion.tiling import TiledDenoiser, blend_tiles, tile_starts

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
    for multiple in (1, 4):
        for side in range(16, 100, multiple):
            starts = tile_starts(side, 16, overlap=0.25, multiple=multiple)
            assert starts[0] == 0
            assert starts[-1] == side - 16
            assert all(start % multiple == 0 for start in starts)
            assert all(0 < b - a <= 12 for a, b in pairwise(starts))


def test_gradients_flow_through():
    x = torch.randn(1, 1, 16, 20, requires_grad=True)
    TiledDenoiser(identity, 16)(x, SIGMA).sum().backward()
    torch.testing.assert_close(x.grad, torch.ones_like(x))


@pytest.mark.parametrize(("window", "overlap"), [(0, 0.25), (16, 0.0), (16, 1.0)])
def test_bad_windows_are_refused(window, overlap):
    with pytest.raises(ValueError, match=r"window|overlap"):
        TiledDenoiser(identity, window, overlap)
    with pytest.raises(ValueError, match="window must be a multiple of 5, got 16"):
        TiledDenoiser(identity, 16, multiple=5)


def test_a_shorter_side_is_as_long_as_the_tiles():
    seen = []

    def denoiser(x, sigma):
        seen.append(tuple(x.shape[-2:]))
        return x

    for size in ((10, 16), (10, 40), (16, 12)):
        x = torch.rand(1, 3, *size)
        torch.testing.assert_close(TiledDenoiser(denoiser, 16)(x, SIGMA), x)
    assert seen == [(10, 16), *[(10, 16)] * 3, (16, 12)]


def test_conditions_of_a_place_go_with_its_tile():
    grid = torch.rand(1, 2, 5, 12)
    text = torch.rand(1, 7, 3)

    def denoiser(x, sigma, local, text):
        assert text.shape == (1, 7, 3)
        assert x.shape[-2:] == (16, 16)
        return local[:, :1].repeat_interleave(4, -2).repeat_interleave(4, -1).expand_as(x)

    tiled = TiledDenoiser(denoiser, 16, multiple=4, spatial=["local"])
    out = tiled(torch.zeros(1, 3, 20, 48), SIGMA, local=grid, text=text)
    whole = grid[:, :1].repeat_interleave(4, -2).repeat_interleave(4, -1).expand(1, 3, -1, -1)
    torch.testing.assert_close(out, whole)


@pytest.mark.parametrize("scale", [(1, 4), (4, 1)])
def test_results_of_another_resolution(scale):
    up, down = scale
    x = torch.rand(1, 1, 24, 40)

    def of_tile(rows, columns):
        part = x[..., rows, columns]
        if down > 1:
            return torch.nn.functional.avg_pool2d(part, down)
        return torch.nn.functional.interpolate(part, scale_factor=up)

    out = blend_tiles(of_tile, (24, 40), 16, multiple=4, up=up, down=down)
    torch.testing.assert_close(out, of_tile(slice(None), slice(None)))
