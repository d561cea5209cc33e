"""Tiny random networks, saved in the layouts of the public ones."""

import math

import pytest
import torch
from diffusers import (
    CMStochasticIterativeScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    UNet2DModel,
)

from diffcodec.diffusion.schedule import sigmas_of
from diffcodec.sdedit.hub import HubPrior
from diffcodec.sdedit.openai_checkpoints import (
    ADM_OPTIONS,
    ARCHITECTURES,
    convert,
    openai_key,
)

TINY = {
    "sample_size": 16,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "attention_head_dim": 8,
    "norm_num_groups": 4,
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "upsample_type": "resnet",
    "downsample_type": "resnet",
}
SIGMA = torch.tensor(0.3)


def unet(**options) -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(**(TINY | options)).eval()


@pytest.fixture
def save(tmp_path):
    """Network, scheduler -> a folder in diffusers' layout."""

    def saved(network, scheduler, name="model") -> str:
        network.save_pretrained(tmp_path / name / "unet")
        scheduler.save_pretrained(tmp_path / name / "scheduler")
        return str(tmp_path / name)

    return saved


@pytest.fixture
def x():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_edm_layout(save, x):
    network, scheduler = unet(), EDMEulerScheduler(sigma_data=0.4)
    prior = HubPrior(save(network, scheduler))
    scaled = scheduler.precondition_inputs(x, SIGMA)
    output = network(scaled, scheduler.precondition_noise(SIGMA)).sample
    expected = scheduler.precondition_outputs(x, output, SIGMA)
    torch.testing.assert_close(prior.denoiser()(x, SIGMA), expected, rtol=1e-4, atol=1e-5)
    assert prior.window == 16


@torch.no_grad()
def test_consistency_layout(save, x):
    network, scheduler = unet(num_class_embeds=5), CMStochasticIterativeScheduler()
    prior = HubPrior(consistency=save(network, scheduler), class_label=3)
    c_skip, c_out = scheduler.get_scalings_for_boundary_condition(SIGMA)
    time = 250 * SIGMA.log()
    labels = torch.tensor([3, 3])
    output = network(x / (SIGMA**2 + 0.25).sqrt(), time, class_labels=labels).sample
    torch.testing.assert_close(
        prior.consistency()(x, SIGMA), c_skip * x + c_out * output, rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_discrete_layouts_by_their_own_schedule(save, x, prediction):
    # Six channels: some predict a variance, too.
    network = unet(out_channels=6)
    scheduler = DDPMScheduler(prediction_type=prediction, clip_sample=False)
    prior = HubPrior(save(network, scheduler))
    step = 123
    sigma = sigmas_of(scheduler.alphas_cumprod)[step]
    abar = scheduler.alphas_cumprod[step]
    x_t = x * abar.sqrt()
    output = network(x_t, step).sample[:, :3]
    expected = {
        "epsilon": (x_t - (1 - abar).sqrt() * output) / abar.sqrt(),
        "v_prediction": abar.sqrt() * x_t - (1 - abar).sqrt() * output,
        "sample": output,
    }[prediction]
    torch.testing.assert_close(prior.denoiser()(x, sigma), expected, rtol=1e-3, atol=1e-4)
    assert prior.max_sigma == pytest.approx(157.4, rel=0.01)


@torch.no_grad()
def test_a_folder_without_subfolders(tmp_path, x):
    unet().save_pretrained(tmp_path)
    EDMEulerScheduler().save_pretrained(tmp_path)
    assert HubPrior(str(tmp_path)).denoiser()(x, SIGMA).shape == x.shape


@torch.no_grad()
def test_larger_images_go_through_tiles(save):
    prior = HubPrior(save(unet(), EDMEulerScheduler()))
    x = prior.pad(torch.rand(1, 3, 10, 37))
    assert x.shape == (1, 3, 16, 38)
    assert prior.denoiser()(x, SIGMA).shape == x.shape


def to_openai(network: UNet2DModel) -> dict[str, torch.Tensor]:
    """The state dict as OpenAI numbers it: the inverse of the key table."""
    state, parts = network.state_dict(), {}
    layers = network.config.layers_per_block
    for key, value in state.items():
        name, third = openai_key(key, state, layers)
        parts.setdefault(name, {})[third] = value
    out = {}
    for name, thirds in parts.items():
        if None in thirds:
            value = thirds[None]
            is_projection = ".proj_out.weight" in name
            out[name] = value[..., None] if is_projection else value
        else:
            value = torch.cat([thirds[i] for i in range(3)])
            out[name] = value[..., None] if value.ndim == 2 else value
    return out


def qkv_of_heads(x, weight, bias, heads):
    """guided-diffusion's attention: x (B, C, N) -> q, k, v of each head (B, heads, d, N).

    One convolution to 3 C channels, which are cut into heads, and each head into q, k and v.
    """
    projected = torch.nn.functional.conv1d(x, weight, bias)
    q, k, v = projected.unflatten(1, (heads, -1)).chunk(3, dim=2)
    return q, k, v


@torch.no_grad()
def test_adm_splits_heads_before_q_k_and_v():
    network = unet(block_out_channels=(8, 16), attention_head_dim=4)
    state = to_openai(network)
    name = "middle_block.1.qkv"
    converted = convert(state, network.state_dict(), head_dim=4)
    attention = network.mid_block.attentions[0]
    network.load_state_dict(converted)
    tokens = torch.randn(2, 16, 7)
    q, k, v = qkv_of_heads(tokens, state[f"{name}.weight"], state[f"{name}.bias"], heads=4)
    for layer, expected in ((attention.to_q, q), (attention.to_k, k), (attention.to_v, v)):
        found = layer(tokens.transpose(1, 2)).transpose(1, 2).unflatten(1, (4, 4))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"resnet_time_scale_shift": "scale_shift"}])
def test_adm_is_told_from_edm_by_its_variance(tmp_path, x, options):
    network = unet(out_channels=6, **options)
    path = str(tmp_path / "256x256_diffusion_uncond.pt")
    torch.save(to_openai(network), path)
    with pytest.raises(ValueError, match=r"needs noise_schedule and use_new_attention"):
        HubPrior(path, architecture=TINY | options)
    options = options | {"noise_schedule": "linear", "use_new_attention_order": False}
    prior = HubPrior(path, architecture=TINY | options)
    assert prior.max_sigma == pytest.approx(157.4, rel=0.01)
    loaded = prior.networks["denoiser"]
    scheduler = DDPMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False)
    step = 321
    sigma, abar = sigmas_of(scheduler.alphas_cumprod)[step], scheduler.alphas_cumprod[step]
    x_t = x * abar.sqrt()
    eps = loaded(x_t, step).sample[:, :3]
    expected = (x_t - (1 - abar).sqrt() * eps) / abar.sqrt()
    torch.testing.assert_close(prior.denoiser()(x, sigma), expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match=r"ADM denoiser and cannot be codec\.prior\.consistency"):
        HubPrior(consistency=path, architecture=TINY | options)


@torch.no_grad()
def test_adm_at_64x64_has_a_cosine_schedule_and_the_new_attention_order(tmp_path, x):
    network = unet(out_channels=6, block_out_channels=(8, 16), attention_head_dim=4)
    path = str(tmp_path / "64x64_diffusion.pt")
    torch.save(to_openai(network), path)
    sizes = TINY | {"block_out_channels": (8, 16), "attention_head_dim": 4}
    adm = {key: ARCHITECTURES["adm_imagenet64"][key] for key in ADM_OPTIONS}
    prior = HubPrior(path, architecture=sizes | adm)
    loaded = prior.networks["denoiser"]
    for name, value in network.state_dict().items():  # q, k and v in thirds, as they were written
        assert torch.equal(loaded.state_dict()[name], value)
    step = 500
    # abar(t) = cos^2((t / T + 0.008) / 1.008 * pi / 2), Nichol & Dhariwal 2021, Eq. 17
    abar = math.cos(((step + 1) / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
    abar /= math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    sigma = torch.tensor(((1 - abar) / abar) ** 0.5)
    eps = loaded(x * abar**0.5, step).sample[:, :3]
    torch.testing.assert_close(prior.denoiser()(x, sigma), x - sigma * eps, rtol=1e-3, atol=1e-3)
    for options, message in (
        ({"noise_schedule": "cosine"}, "needs noise_schedule and use_new_attention"),
        (adm | {"noise_schedule": "sine"}, "unknown noise_schedule 'sine', choose from linear, co"),
    ):
        with pytest.raises(ValueError, match=message):
            HubPrior(path, architecture=sizes | options)


@torch.no_grad()
def test_ddpm_has_the_variance_of_the_network(tmp_path, save, x):
    network = unet(out_channels=6)
    path = str(tmp_path / "256x256_diffusion_uncond.pt")
    torch.save(to_openai(network), path)
    options = {"noise_schedule": "linear", "use_new_attention_order": True}
    prior = HubPrior(path, architecture=TINY | options)
    abar = DDPMScheduler().alphas_cumprod.double()
    sigmas = prior.ddpm_sigmas(1000)
    torch.testing.assert_close(sigmas[:-1], sigmas_of(abar).flip(0), rtol=1e-5, atol=1e-7)
    assert sigmas[-1] == 0
    step = 321
    sigma = sigmas[999 - step]
    output = network((x * abar[step] ** 0.5).float(), step).sample
    found = prior.ddpm()(x, sigma)
    torch.testing.assert_close(found[:, 3:], output[:, 3:], rtol=1e-3, atol=1e-4)
    expected = (x - sigma * output[:, :3]).clamp(-1, 1).float()
    torch.testing.assert_close(found[:, :3], expected, rtol=1e-3, atol=1e-3)
    # A network without a variance gives x0_hat alone; of a continuous process there is none.
    plain = HubPrior(save(unet(), DDPMScheduler(num_train_timesteps=100)))
    assert plain.ddpm()(x, sigma).shape == x.shape
    assert len(plain.ddpm_sigmas(50)) == 51
    with pytest.raises(ValueError, match="must be in 1 to 100, got 1000"):
        plain.ddpm_sigmas(1000)
    edm = HubPrior(save(unet(), EDMEulerScheduler(), "edm"))
    for call in (edm.ddpm, lambda: edm.ddpm_sigmas(10)):
        with pytest.raises(ValueError, match="preset ivc needs a pixel-space denoiser trained"):
            call()


def test_another_number_of_outputs_is_refused(tmp_path):
    torch.save(to_openai(unet(out_channels=4)), tmp_path / "x.pt")
    with pytest.raises(ValueError, match="last layer has 4 channels, expected 3 "):
        HubPrior(str(tmp_path / "x.pt"), architecture=TINY)


@pytest.mark.parametrize(
    "options", [{}, {"num_class_embeds": 5, "resnet_time_scale_shift": "scale_shift"}]
)
@torch.no_grad()
def test_openai_checkpoints(tmp_path, x, options):
    network = unet(**options)
    torch.save(to_openai(network), tmp_path / "cd_tiny.pt")
    path = str(tmp_path / "cd_tiny.pt")
    prior = HubPrior(path, path, architecture=TINY | options)
    for name in ("denoiser", "consistency"):
        loaded = prior.networks[name].state_dict()
        assert all(torch.equal(v, loaded[k]) for k, v in network.state_dict().items())
    labels = torch.zeros(2, dtype=torch.long) if options else None
    output = network(x / (SIGMA**2 + 0.25).sqrt(), 250 * SIGMA.log(), class_labels=labels).sample
    c_skip, c_out = 0.25 / (SIGMA**2 + 0.25), 0.5 * SIGMA / (SIGMA**2 + 0.25).sqrt()
    torch.testing.assert_close(
        prior.denoiser()(x, SIGMA), c_skip * x + c_out * output, rtol=1e-4, atol=1e-4
    )


def test_the_key_table_numbers_layers_as_the_public_checkpoints_do():
    # cd_imagenet64_l2.pt has three blocks a stage.
    keys = {"up_blocks.0.attentions.0.to_q.weight": None}

    def name(key):
        return openai_key(key, keys, 3)[0]

    assert name("down_blocks.0.resnets.2.conv1.weight") == "input_blocks.3.0.in_layers.2.weight"
    assert name("down_blocks.0.downsamplers.0.norm1.bias") == "input_blocks.4.0.in_layers.0.bias"
    assert name("down_blocks.1.attentions.0.group_norm.bias") == "input_blocks.5.1.norm.bias"
    assert name("mid_block.attentions.0.to_out.0.bias") == "middle_block.1.proj_out.bias"
    assert name("up_blocks.0.upsamplers.0.conv2.bias") == "output_blocks.3.2.out_layers.3.bias"
    assert name("up_blocks.2.upsamplers.0.conv2.bias") == "output_blocks.11.1.out_layers.3.bias"
    assert name("up_blocks.1.resnets.0.conv_shortcut.bias") == (
        "output_blocks.4.0.skip_connection.bias"
    )
    assert openai_key("mid_block.attentions.0.to_v.bias", keys, 3) == ("middle_block.1.qkv.bias", 2)


def test_foreign_checkpoints_are_refused(tmp_path):
    state = to_openai(unet())
    assert "mystery" in convert(state | {"mystery": torch.ones(1)}, unet().state_dict())
    for name, broken in {
        "missing": {k: v for k, v in state.items() if not k.startswith("out.2")},
        "more": state | {"mystery": torch.ones(1)},
    }.items():
        torch.save(broken, tmp_path / f"{name}.pt")
        with pytest.raises(ValueError, match="do not fit"):
            HubPrior(str(tmp_path / f"{name}.pt"), architecture=TINY)


def test_the_public_architectures_have_their_sizes():
    # Of attention and convolutions alone; a model this large is not built here.
    assert ARCHITECTURES["lsun256"]["block_out_channels"] == (256, 256, 512, 512, 1024, 1024)
    for options in ARCHITECTURES.values():
        assert len(options["down_block_types"]) == len(options["block_out_channels"])
        assert options["up_block_types"] == tuple(
            name.replace("DownBlock", "UpBlock").replace("Downsample", "Upsample")
            for name in reversed(options["down_block_types"])
        )


def test_what_is_missing_or_swapped_is_said(save, tmp_path):
    with pytest.raises(ValueError, match=r"pass codec\.prior\.source or"):
        HubPrior()
    with pytest.raises(ValueError, match="could not load an unconditional U-Net"):
        HubPrior(str(tmp_path))
    edm = save(unet(), EDMEulerScheduler(), "edm")
    with pytest.raises(ValueError, match=r"is a denoiser and cannot be codec\.prior\.consistency"):
        HubPrior(consistency=edm)
    with pytest.raises(ValueError, match=r"preset fast needs codec\.prior\.consistency"):
        HubPrior(edm).consistency()
    with pytest.raises(ValueError, match="unknown architecture 'adm', choose from lsun256"):
        HubPrior(edm, architecture="adm")
    with pytest.raises(ValueError, match="window must be a multiple of 2, got 15"):
        HubPrior(edm, window=15)
