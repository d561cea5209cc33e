import pytest
import torch

from diffcodec.latent.autoencoder import LatentSpace
from diffcodec.latent.small_backbone import small_autoencoder
from tests.seams import seam_ratio


@pytest.mark.parametrize("size", [(8, 8), (64, 24)])
def test_latents_are_an_eighth_of_the_image(make_backbone, size):
    latents = make_backbone().latents
    x = torch.rand(2, 3, *size)
    with torch.no_grad():
        z = latents.encode(x)
        assert z.shape == (2, 4, size[0] // 8, size[1] // 8)
        assert latents.decode(z).shape == x.shape
        latents.shift.fill_(0.5)
        latents.scale.fill_(2.0)
        torch.testing.assert_close(latents.encode(x), (z - 0.5) * 2)
        torch.testing.assert_close(
            latents.decode(latents.encode(x)), small_scale(latents, z), rtol=1e-4, atol=1e-5
        )


def small_scale(latents, z):
    latents.shift.fill_(0.0)
    latents.scale.fill_(1.0)
    out = latents.decode(z)
    latents.shift.fill_(0.5)
    latents.scale.fill_(2.0)
    return out


@pytest.mark.parametrize("size", [(8, 8), (33, 50)])
def test_the_round_trip_keeps_the_size_and_does_not_depend_on_the_batch(make_backbone, size):
    latents = make_backbone().latents.eval()
    x = torch.rand(2, 3, *size)
    with torch.no_grad():
        x_hat = latents.round_trip(x)
        assert x_hat.shape == x.shape
        assert x_hat.min() >= 0
        assert x_hat.max() <= 1
        assert torch.equal(latents.round_trip(x[1:]), x_hat[1:])


@torch.no_grad()
def test_large_images_go_through_in_tiles_and_look_the_same(photo):
    whole = small_autoencoder(weights="perco").eval()
    tiled = LatentSpace(small_autoencoder(weights="perco").vae, patch=4, window=256).eval()
    tiled.load_state_dict(whole.state_dict())
    seen = []
    for network in (tiled.vae.encoder, tiled.vae.decoder):
        network.register_forward_pre_hook(lambda _, inputs: seen.append(max(inputs[0].shape)))
    x_hat = tiled.round_trip(photo)
    assert x_hat.shape == photo.shape
    assert max(seen) == 256 // 4  # as the encoder sees it
    # Group normalisation sees a tile's statistics in place of the whole image's.
    mse = (whole.round_trip(photo) - x_hat).square().mean()
    assert 40 < -10 * mse.log10() < 60


def test_a_window_is_whole_latents():
    with pytest.raises(ValueError, match="window must be a multiple of 8, got 100"):
        LatentSpace(small_autoencoder((16, 16)).vae, patch=4, window=100)


@torch.no_grad()
def test_tiles_have_no_seams(photo):
    whole = small_autoencoder(weights="perco").eval()
    tiled = LatentSpace(small_autoencoder(weights="perco").vae, patch=4, window=256).eval()
    tiled.load_state_dict(whole.state_dict())
    x = photo[..., :128, :]
    assert seam_ratio(tiled.round_trip(x), whole.round_trip(x), 256, 8) < 3
