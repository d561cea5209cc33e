"""A tiny random Stable Diffusion pipeline, and U-Nets for one step in its latent space."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from diffcodec.diffusion.schedule import sigmas_of
from diffcodec.sdedit.latent import LatentPrior, guidance_embedding
from tests.latent.tiny import save_pipeline

STEP = 250


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> str:
    return str(save_pipeline(tmp_path_factory.mktemp("sd")))


@pytest.fixture(scope="module")
def save_unet(pipeline, tmp_path_factory):
    """Options -> a folder with a U-Net for the pipeline's latents."""

    def saved(**options) -> str:
        torch.manual_seed(1)
        config = UNet2DConditionModel.load_config(pipeline, subfolder="unet") | options
        folder = tmp_path_factory.mktemp("unet")
        UNet2DConditionModel.from_config(config).save_pretrained(folder)
        return str(folder)

    return saved


def alphas() -> torch.Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0)


def test_latents_there_and_back(pipeline):
    prior = LatentPrior(pipeline)
    assert prior.multiple == 16
    assert prior.max_sigma == pytest.approx(14.6, abs=0.1)
    x = prior.pad(torch.rand(1, 3, 30, 40))
    assert x.shape == (1, 3, 32, 48)
    with torch.no_grad():
        z = prior.encode(x)
        assert z.shape == (1, 4, 4, 6)
        torch.testing.assert_close(
            prior.decode(z), (prior.latents.vae.decode(z / 0.18215).sample + 1) / 2
        )


@torch.no_grad()
def test_the_denoiser_is_the_pipelines_with_an_empty_prompt(pipeline):
    from diffusers import StableDiffusionPipeline

    theirs = StableDiffusionPipeline.from_pretrained(pipeline, safety_checker=None)
    empty, _ = theirs.encode_prompt([""], "cpu", 1, do_classifier_free_guidance=False)
    abar = alphas()[STEP].float()
    sigma = sigmas_of(alphas())[STEP]
    z = torch.randn(2, 4, 4, 4)
    z_t = z * abar.sqrt()
    eps = theirs.unet(z_t, STEP, encoder_hidden_states=empty.expand(2, -1, -1)).sample
    expected = (z_t - (1 - abar).sqrt() * eps) / abar.sqrt()
    prior = LatentPrior(pipeline)
    torch.testing.assert_close(prior.denoiser()(z, sigma), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_turbo_unet_is_evaluated_once_as_it_is(pipeline, save_unet):
    prior = LatentPrior(pipeline, save_unet())
    z, sigma = torch.randn(1, 4, 4, 4), sigmas_of(alphas())[STEP]
    abar = alphas()[STEP].float()
    eps = prior.consistency_unet(z * abar.sqrt(), STEP, encoder_hidden_states=prior.text).sample
    expected = z - sigma.float() * eps
    torch.testing.assert_close(prior.consistency()(z, sigma), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_latent_consistency_model_agrees_with_diffusers(pipeline, save_unet):
    from diffusers import LCMScheduler

    prior = LatentPrior(pipeline, save_unet(time_cond_proj_dim=6), guidance=3.0)
    scheduler = LCMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    scheduler.set_timesteps(1, original_inference_steps=50)
    sigma = sigmas_of(alphas())[scheduler.timesteps[0]]
    z = torch.randn(1, 4, 4, 4) * sigma.float()
    z_t = z / (1 + sigma.float() ** 2).sqrt()
    output = prior.consistency_unet(
        *(z_t, scheduler.timesteps[0]),
        encoder_hidden_states=prior.text,
        timestep_cond=guidance_embedding(3.0, 6),
    ).sample
    expected = scheduler.step(output, scheduler.timesteps[0], z_t).denoised
    torch.testing.assert_close(prior.consistency()(z, sigma), expected, rtol=1e-3, atol=1e-3)


def test_the_guidance_embedding_agrees_with_diffusers():
    from diffusers import LatentConsistencyModelPipeline

    embed = LatentConsistencyModelPipeline.get_guidance_scale_embedding
    for size in (6, 256):
        expected = embed(None, torch.tensor([7.5]), embedding_dim=size)
        torch.testing.assert_close(guidance_embedding(7.5, size), expected, rtol=1e-3, atol=2e-3)


def test_it_enhances_any_codec(pipeline, save_unet, make_codec, x):
    prior = LatentPrior(pipeline, save_unet(time_cond_proj_dim=6), window=32)
    codec = make_codec("fast", "medium", prior=prior, strength=0.5)
    for point in codec.points:
        streams = codec.compress(x, point)
        x_hat = codec.decompress(streams, point)
        assert x_hat.shape == x.shape
        same = torch.equal(x_hat, codec.base.decompress(streams))
        assert same == point.name.startswith("base")


def test_what_is_missing_is_said(pipeline, tmp_path):
    with pytest.raises(ValueError, match=r"preset fast needs codec\.prior\.consistency"):
        LatentPrior(pipeline).consistency()
    with pytest.raises(ValueError, match="could not load a Stable Diffusion pipeline"):
        LatentPrior(str(tmp_path))
    with pytest.raises(ValueError, match="could not load a U-Net"):
        LatentPrior(pipeline, str(tmp_path))
    with pytest.raises(ValueError, match="window must be a multiple of 16, got 40"):
        LatentPrior(pipeline, window=40)
