import pytest
import torch

from diffcodec.latent.small_backbone import small_backbone


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


def test_a_widened_unet_takes_zeros_where_no_codes_are_given(make_backbone):
    backbone = make_backbone()
    x, time = torch.randn(1, 4, 8, 8), torch.tensor(10.0)
    text = backbone.null_text()
    with torch.no_grad():
        plain = backbone.network(x, time, text=text)
        backbone.widen(3)
        assert torch.allclose(backbone.network(x, time, text=text), plain, atol=1e-5)


def test_the_null_text_is_the_learned_one_where_there_is_one(make_backbone):
    backbone = make_backbone()
    assert torch.equal(backbone.null_text(), backbone.embed_text([""]))
    backbone.perco_state = {"null_text": torch.ones(1, 12, 16, dtype=torch.float16)}
    assert torch.equal(backbone.null_text(), torch.ones(1, 12, 16))


def test_a_backbone_knows_whether_it_is_trained(make_backbone):
    assert not make_backbone().trained
    assert small_backbone(weights="perco").trained


@pytest.mark.parametrize("memory", ["frozen", "all"])
def test_networks_in_half_precision_take_and_return_float32(make_backbone, memory):
    full, half = make_backbone(), make_backbone(memory=memory)
    x, x_t, time = torch.rand(1, 3, 64, 64), torch.randn(1, 4, 8, 8), torch.tensor(3.0)
    with torch.no_grad():
        results = [
            (
                backbone.embed_text(["red"]),
                backbone.network(x_t, time, text=backbone.null_text()),
                latent := backbone.latents.encode(x),
                backbone.latents.decode(latent),
            )
            for backbone in (full, half)
        ]
    for expected, actual in zip(*results, strict=True):
        assert actual.dtype == torch.float32
        assert 0 < (actual - expected).norm() < 0.03 * expected.norm()
    assert half.latents.scale.dtype == torch.float32


def test_memory_is_checked_and_all_of_it_is_for_coding_alone(make_backbone):
    with pytest.raises(ValueError, match="unknown memory 'half', choose from full, frozen, all"):
        make_backbone(memory="half")
    make_backbone(memory="frozen").check_trainable()
    with pytest.raises(ValueError, match="pass memory=frozen or memory=full"):
        make_backbone(memory="all").check_trainable()
