import pytest
import torch

from diffcodec.perco.small import small_autoencoder, small_backbone
from experiments.build import build_codec
from experiments.cli import compose_config


def test_what_ships_takes_less_than_10_mib_in_half_precision():
    codec = build_codec(compose_config(["codec=perco"]))
    backbone = codec.model.backbone
    counts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in backbone.named_children()
    }
    assert counts == {"latents": 2_526_164, "unet": 1_799_212, "text_encoder": 145_728}
    assert 2 * sum(t.numel() for t in codec.state_dict().values()) < 10 << 20
    assert backbone.latents.stride == 8
    assert backbone.prediction == "v"


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


def test_the_autoencoder_alone_is_that_of_the_backbone():
    assert small_autoencoder().state_dict().keys() == small_backbone().latents.state_dict().keys()


def test_widening_twice_is_refused(make_backbone):
    backbone = make_backbone()
    backbone.widen(6)
    backbone.widen(6)
    with pytest.raises(ValueError, match="takes 6 local channels, not 8: set M=6"):
        backbone.widen(8)


def test_codes_reach_every_latent_they_stand_for(make_backbone):
    backbone = make_backbone()
    backbone.widen(6)
    local = torch.randn(1, 6, 2, 2)
    text = backbone.embed_text(["red"])
    x_t, time = torch.randn(1, 4, 8, 8), torch.tensor(3.0)
    with torch.no_grad():
        upsampled = local.repeat_interleave(4, 2).repeat_interleave(4, 3)
        expected = backbone.unet(
            torch.cat([x_t, upsampled], 1), time, encoder_hidden_states=text
        ).sample
        assert torch.equal(backbone.network(x_t, time, text=text, local=local), expected)


def test_without_local_channels_it_is_what_zeros_give(make_backbone):
    backbone = make_backbone()
    backbone.widen(6)
    text = backbone.embed_text(["red"])
    x_t, time = torch.randn(1, 4, 8, 8), torch.tensor(3.0)
    with torch.no_grad():
        expected = backbone.network(x_t, time, text=text, local=torch.zeros(1, 6, 8, 8))
        backbone.widen(0)
        assert backbone.unet.config.in_channels == 4
        torch.testing.assert_close(backbone.network(x_t, time, text=text), expected)
