"""Against the authors' code, on random weights in a reduced layout.

`reference.json` holds what their networks, their coder, and peft's adapters compute with the
weights of `drawn.py` in float32 on a CPU.
"""

import pytest
import torch

from diffcodec.latent.stable_diffusion import stable_diffusion
from diffcodec.stablecodec import StableCodec
from diffcodec.stablecodec.codec import _padded
from tests.ddcm.drawn import save_drawn_pipeline
from tests.stablecodec.drawn import REFERENCE, SIZES, image, save_drawn_checkpoint


@pytest.fixture(scope="module")
def codec(tmp_path_factory) -> StableCodec:
    folder = tmp_path_factory.mktemp("stablecodec")
    weights, elic = save_drawn_checkpoint(folder)
    backbone = stable_diffusion(str(save_drawn_pipeline(folder / "sd", "epsilon")))
    return StableCodec(backbone, weights=str(weights), elic_weights=str(elic), **SIZES).eval()


def assert_close(found: torch.Tensor, name: str, tolerance: float = 1e-4) -> None:
    expected = torch.tensor(REFERENCE[name])
    scale = expected.abs().max().item()
    torch.testing.assert_close(found.flatten(), expected, rtol=0, atol=tolerance * scale)


@torch.no_grad()
def test_latents_are_the_authors(codec):
    y = codec.analyse(image())
    assert_close(codec.latents.encode(image())[..., ::8, ::8], "latent")
    assert_close(y, "y")
    assert_close(codec.codec.h_a(y), "z")


@torch.no_grad()
def test_symbols_and_bits_are_the_authors(codec):
    x = image()
    (sections,) = codec.encode(x, codec.points[0])
    coder, context = codec._prepared()
    y_hat = coder.decode(sections, 1, 2, context)
    assert_close(y_hat, "y_hat")
    for section, bits in zip(sections, REFERENCE["bits"], strict=True):
        assert abs(8 * len(section) - bits) <= 32 + 0.01 * bits


@torch.no_grad()
def test_the_picture_is_the_authors(codec):
    (stream,) = codec.compress(image())
    x_hat = codec.decompress([stream])
    assert x_hat.shape == (1, 3, 256, 512)
    assert_close(x_hat[..., ::32, ::32], "picture")


def test_images_are_padded_as_the_authors_do():
    x = torch.rand(1, 3, 200, 300)
    padded = torch.nn.functional.pad(x, (0, 212, 0, 56), mode="reflect")
    assert torch.equal(_padded(x), padded)
    assert _padded(x[..., :100, :]).shape == (1, 3, 256, 512)  # too little to mirror
