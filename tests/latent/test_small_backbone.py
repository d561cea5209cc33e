from diffcodec.latent.small_backbone import small_autoencoder, small_backbone
from experiments.build import build_codec
from experiments.cli import compose_config


def test_what_ships_takes_less_than_34_mib_in_half_precision():
    codec = build_codec(compose_config(["codec=perco"]))
    backbone = small_backbone(weights="perco")
    counts = {
        name: sum(p.numel() for p in part.parameters()) for name, part in backbone.named_children()
    }
    assert counts == {"latents": 2_526_164, "unet": 10_740_868, "text_encoder": 145_728}
    assert 2 * sum(t.numel() for t in codec.state_dict().values()) < 34 << 20
    assert backbone.latents.stride == 8
    assert backbone.prediction == "v"


def test_the_autoencoder_alone_is_that_of_the_backbone():
    assert small_autoencoder().state_dict().keys() == small_backbone().latents.state_dict().keys()
