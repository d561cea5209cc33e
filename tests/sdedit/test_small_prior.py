import pytest
import torch

from diffcodec.sdedit.small_prior import SmallPrior
from diffcodec.sdedit.small_unet import SmallUNet
from experiments.build import build_codec
from experiments.cli import compose_config


def test_what_ships_takes_less_than_6_mib_in_half_precision():
    prior = build_codec(compose_config(["codec=sdedit", "codec/base=jpeg"])).prior
    assert 2 * sum(t.numel() for t in prior.state_dict().values()) < 6 << 20
    assert prior.window == 1024


def test_the_network_is_the_same_everywhere_in_a_picture():
    # What it makes of a place depends on the place's surroundings alone.
    torch.manual_seed(0)
    network = SmallUNet([4, 6], 1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.2)
        x, c_noise = torch.randn(1, 3, 96, 96), torch.tensor([-0.5])
        out = network(x, c_noise)
        assert out.shape == x.shape
        other = x.clone()
        other[..., :8, :8] += 1
        moved = (network(other, c_noise) - out).abs().amax((0, 1))
    assert moved[:8, :8].min() > 0
    assert moved[64:, 64:].max() == 0
    assert not torch.equal(out, network(x, torch.tensor([-0.1])))


def test_untrained_it_takes_no_noise_for_signal():
    prior = SmallPrior(SmallUNet([8, 8], 1), SmallUNet([8, 8], 1))
    x = torch.randn(1, 3, 8, 8)
    sigma = torch.tensor(0.5)
    torch.testing.assert_close(prior.denoiser()(x, sigma), x / 2)


def test_it_pads_to_its_multiple_and_takes_it_away_again(make_prior):
    prior = make_prior()
    assert prior.multiple == 4
    padded = prior.pad(torch.rand(1, 3, 5, 8))
    assert padded.shape == (1, 3, 8, 8)
    assert torch.equal(padded[..., 5:, :], padded[..., 4:5, :].expand(1, 3, 3, 8))
    x = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(prior.decode(prior.encode(x)), x)


def test_weights_are_loaded_and_missing_ones_are_said(tmp_path, caplog):
    network = SmallUNet([4, 6], 1)
    with torch.no_grad():
        network.conv_out.bias.fill_(0.5)
    state = {f"network.{k}": v.half() for k, v in network.state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    path = str(tmp_path / "w.pt")
    given = SmallUNet([4, 6], 1, weights=path)
    prior = SmallPrior(given, SmallUNet([4, 6], 1, weights=path))
    assert not caplog.records
    assert (prior.network.conv_out.bias == 0.5).all()
    assert prior.network.conv_out.bias.dtype == torch.float32
    SmallPrior(given, SmallUNet([4, 6], 1))
    assert "no trained weights" in caplog.text
    with pytest.raises(ValueError, match="do not fit"):
        SmallUNet([4, 8], 1, weights=path)


@pytest.mark.parametrize("options", [([], 1), ([0, 4], 1), ([4], 0)])
def test_networks_of_nothing_are_refused(options):
    with pytest.raises(ValueError, match="must be at least 1"):
        SmallUNet(*options)


@torch.no_grad()
def test_tiles_are_what_the_whole_image_is():
    torch.manual_seed(0)
    networks = [SmallUNet([4, 6], 1), SmallUNet([4, 6], 1)]
    for network in networks:
        for parameter in network.parameters():
            parameter.normal_(std=0.2)
    whole, tiled = SmallPrior(*networks), SmallPrior(*networks, window=96)
    x, sigma = torch.randn(1, 3, 100, 204), torch.tensor(0.3)
    for name in ("denoiser", "consistency"):
        expected = getattr(whole, name)()(x, sigma)
        torch.testing.assert_close(getattr(tiled, name)()(x, sigma), expected, rtol=1e-4, atol=1e-5)
    assert tiled.pad(torch.rand(1, 3, 10, 12)).shape == (1, 3, 12, 12)
    with pytest.raises(ValueError, match="window must be a multiple of 4, got 90"):
        SmallPrior(*networks, window=90)
