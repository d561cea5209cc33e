import itertools

import pytest
import torch

from diffcodec.base.hific import (
    ChannelNorm,
    Encoder,
    Generator,
    HiFiC,
    HyperAnalysis,
    HyperDensity,
    LogisticConditional,
    Parameters,
)

SMALL = {"width": 2, "M": 10, "N": 6}


def make(**options) -> HiFiC:
    torch.manual_seed(0)
    codec = HiFiC(**SMALL, blocks=2, **options).eval()
    with torch.no_grad():
        for name, parameter in codec.model.named_parameters():
            if "factors" in name:
                parameter.uniform_(-1, 1)
            elif name.endswith("conv_block_out.1.weight") and name.startswith("g_a"):
                parameter.mul_(20)  # so that the coder has something to code
    codec.model.entropy_bottleneck.find_tails()
    return codec


def to_public_layout(codec: HiFiC, **args) -> dict:
    """Our keys -> those of the public checkpoints, written out by hand."""
    parts = {"g_a": "Encoder", "g_s": "Generator", "h_a": "Hyperprior.analysis_net"}
    parts |= {"h_s.mu": "Hyperprior.synthesis_mu", "h_s.std": "Hyperprior.synthesis_std"}
    letters = {"matrices": "H", "biases": "b", "factors": "a"}
    state = {}
    for key, value in codec.model.named_parameters():
        if key.startswith("entropy_bottleneck."):
            kind, _, number = key.removeprefix("entropy_bottleneck.").partition(".")
            if kind == "quantiles":
                continue
            state[f"Hyperprior.hyperlatent_likelihood.{letters[kind]}_{number}"] = value
        else:
            own = next(own for own in parts if key.startswith(f"{own}."))
            state[parts[own] + key.removeprefix(own)] = value
    state["Discriminator.context_conv.weight"] = torch.zeros(2)
    state["Hyperprior.prior_entropy_model.scale_table_tensor"] = torch.zeros(3)
    settings = {"likelihood_type": "gaussian", "normalize_input_image": True} | args
    return {"model_state_dict": state, "args": settings, "epoch": 3, "steps": 5}


@pytest.mark.parametrize(
    ("likelihood", "normalized"),
    [("gaussian", True), pytest.param("logistic", False, marks=pytest.mark.slow)],
)
def test_weights_in_the_public_layout_give_the_same_bytes(tmp_path, photo, likelihood, normalized):
    codec = make(likelihood=likelihood, normalized=normalized)
    args = {"likelihood_type": likelihood, "normalize_input_image": normalized}
    public = to_public_layout(codec, **args)
    assert "Encoder.conv_block1.1.weight" in public["model_state_dict"]
    assert "Generator.resblock_1.norm2.gamma" in public["model_state_dict"]
    torch.save(public, tmp_path / "low.pt")
    loaded = HiFiC(**SMALL, weights=str(tmp_path / "low.pt")).eval()
    x = photo[..., :70, :90]
    streams = codec.compress(x)
    assert len(streams[0]) > 60
    assert loaded.compress(x) == streams
    assert torch.equal(loaded.decompress(streams), codec.decompress(streams))
    # What is saved knows what the checkpoint said.
    folder = loaded.save(tmp_path / "saved")
    again = HiFiC(**SMALL, blocks=2, likelihood=likelihood, normalized=normalized)
    again.load_weights(str(folder))
    assert again.eval().compress(x) == streams


def test_decoding_equals_the_forward_pass(photo):
    codec = make()
    x = photo[..., :128, :192]
    with torch.no_grad():
        expected = codec.model(x)["x_hat"].clamp(0, 1)
    assert (codec.decompress(codec.compress(x)) - expected).abs().max() < 1e-5


def test_the_smallest_image_is_coded(photo):
    codec = make()
    x = photo[..., :1, :5]
    assert codec.decompress(codec.compress(x)).shape == x.shape


def test_it_has_the_size_of_the_paper():
    with torch.device("meta"):
        encoder = Encoder(60, 220, normalized=True)
        generator = Generator(60, 220, blocks=9, normalized=True)
        hyper = (HyperAnalysis(220, 320), Parameters(220, 320))
    count = sum(p.numel() for part in (encoder, generator, *hyper) for p in part.parameters())
    assert count == pytest.approx(181e6, rel=0.01)


def test_channel_norm_is_over_channels():
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    expected = torch.empty_like(x)
    for image, row, column in itertools.product(range(2), range(3), range(4)):
        values = x[image, :, row, column]
        spread = ((values - values.mean()).square().sum() / 4 + 1e-3).sqrt()
        expected[image, :, row, column] = (values - values.mean()) / spread
    torch.testing.assert_close(ChannelNorm(5).double()(x), expected)


def test_the_range_of_the_prior_has_all_but_its_tails():
    torch.manual_seed(0)
    prior = HyperDensity(3)
    with torch.no_grad():
        for factor in prior.factors:
            factor.uniform_(-1, 1)
    prior.find_tails()
    logits = prior._logits_cumulative(prior.quantiles, stop_gradient=True).double()
    assert torch.sigmoid(logits[..., 0]).max() < 1e-8
    assert torch.sigmoid(-logits[..., 2]).max() < 1e-8
    assert prior.quantiles[..., 1].abs().max() == 0
    z = torch.arange(-200.0, 200).reshape(1, 1, -1).repeat(3, 1, 1)
    likelihood, _, _ = prior._likelihood(z)
    torch.testing.assert_close(likelihood.sum(-1), torch.ones(3, 1))


def test_the_logistic_distribution_is_its_definition():
    x = torch.linspace(-4, 4, 9, dtype=torch.float64)
    found = LogisticConditional(None)._standardized_cumulative(x)
    torch.testing.assert_close(found, 1 / (1 + torch.exp(-x)))
    assert LogisticConditional._standardized_quantile(0.5) == 0
    assert LogisticConditional._standardized_quantile(1 / (1 + 2.718281828459045)) == pytest.approx(
        -1
    )


def test_networks_have_the_strides_of_the_paper():
    encoder, generator = Encoder(2, 7, normalized=True), Generator(2, 7, blocks=1, normalized=True)
    y = encoder(torch.rand(1, 3, 64, 96))
    assert y.shape == (1, 7, 4, 6)
    x_hat = generator(y)
    assert x_hat.shape == (1, 3, 64, 96)
    assert 0 < x_hat.min() < x_hat.max() < 1


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"unknown target 0\.2, choose from \[0\.14, 0\.3, 0\.45\]"
    ):
        HiFiC(0.2)
    with pytest.raises(ValueError, match="unknown likelihood 'laplace'"):
        HiFiC(likelihood="laplace")
    public = to_public_layout(make())
    path = tmp_path / "w.pt"
    torch.save(public, path)
    with pytest.raises(ValueError, match=r"w\.pt has blocks=2, not 9: remove blocks"):
        HiFiC(**SMALL, blocks=9, weights=str(path))
    public["model_state_dict"]["Encoder.extra"] = torch.zeros(1)
    torch.save(public, path)
    with pytest.raises(ValueError, match=r"w\.pt do not fit: .*g_a\.extra"):
        HiFiC(**SMALL, weights=str(path))
    del public["args"]
    torch.save(public, path)
    with pytest.raises(ValueError, match="has no 'args'"):
        HiFiC(**SMALL, weights=str(path))


def test_the_rate_weighs_more_above_the_target(photo):
    codec = make(target=0.45).train()
    x = photo[..., :64, :64]
    out = codec.rate_distortion(x)
    assert out["bpp_loss"] > 0.45
    expected = 0.5 * out["bpp_loss"] + 0.075 / 32 * 255**2 * out["mse_loss"]
    torch.testing.assert_close(out["loss"], expected)
