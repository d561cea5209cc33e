import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffcodec.perco import PerCo
from diffcodec.perco.hyper_encoder import HyperEncoder
from diffcodec.perco.rates import Rate
from diffcodec.perco.stable_diffusion import stable_diffusion


def save_pipeline(folder: Path, prediction_type: str = "epsilon") -> Path:
    """A randomly initialised Stable Diffusion pipeline, as `save_pretrained` writes it."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    words = [*letters, *(letter + "</w>" for letter in letters)]
    vocab = {w: i for i, w in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    (folder / "raw").mkdir(parents=True)
    (folder / "raw" / "vocab.json").write_text(json.dumps(vocab))
    (folder / "raw" / "merges.txt").write_text("#version: 0.2\n")
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            latent_channels=4,
            norm_num_groups=4,
        ),
        unet=UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(vocab),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=77,
                bos_token_id=len(vocab) - 2,
                eos_token_id=len(vocab) - 1,
                pad_token_id=len(vocab) - 1,
            )
        ),
        tokenizer=CLIPTokenizer(
            vocab=str(folder / "raw" / "vocab.json"),
            merges=str(folder / "raw" / "merges.txt"),
            model_max_length=77,
        ),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type=prediction_type,
            clip_sample=False,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("sd"))


def small_codec(folder: Path, rates=("8x8/16",), **options) -> PerCo:
    options = {"N": 8, "M": 6, "codebook_dim": 4, "steps": 2, **options}
    return PerCo(stable_diffusion(str(folder)), rates, **options).eval()


def test_a_pipeline_folder_is_a_backbone(pipeline):
    backbone = stable_diffusion(str(pipeline))
    assert backbone.prediction == "eps"
    assert backbone.latents.stride == 8
    assert backbone.latents.scale.unique().item() == pytest.approx(0.18215)
    assert backbone.local_channels == 0
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    torch.testing.assert_close(
        backbone.alphas_cumprod, (1 - betas).cumprod(0), rtol=1e-4, atol=1e-6
    )
    embedding = backbone.embed_text(["a cat", ""])
    assert embedding.shape == (2, 77, 16)
    assert not torch.equal(embedding[0], embedding[1])


def test_images_come_back(pipeline):
    codec = small_codec(pipeline)
    x = torch.rand(1, 3, 70, 33)
    x_hat = codec.decompress(codec.compress(x, captions=["a cat"]))
    assert x_hat.shape == x.shape
    assert x_hat.isfinite().all()


def test_the_unet_is_widened_and_its_old_channels_kept(pipeline):
    old = stable_diffusion(str(pipeline)).unet
    codec = small_codec(pipeline)
    new = codec.model.backbone.unet
    assert new.config.in_channels == 10
    assert torch.equal(new.conv_in.weight[:, :4], old.conv_in.weight)
    assert new.conv_in.weight[:, 4:].abs().mean() > 0
    assert torch.equal(new.conv_in.bias, old.conv_in.bias)
    rest = new.state_dict()
    for name, tensor in old.state_dict().items():
        if not name.startswith("conv_in"):
            assert torch.equal(tensor, rest[name]), name


def test_an_epsilon_model_is_trained_as_a_v_model(pipeline):
    """What the network predicts, turned into v by the schedule, has the loss of v."""
    codec = small_codec(pipeline)
    process, backbone = codec.model.process, codec.model.backbone
    assert process.prediction == "eps"
    x0, eps = torch.randn(2, 1, 4, 8, 8)
    text, local = codec.model.null_text, torch.randn(1, 6, 2, 2)
    for step in (4, 25, 49):
        sigma = process.sigmas[step]
        abar = (1 / (1 + sigma**2)).float()
        x_t = abar.sqrt() * x0 + (1 - abar).sqrt() * eps
        with torch.no_grad():
            time = process.timesteps[step].float()
            predicted = backbone.network(x_t, time, text=text, local=local)
            x0_hat = process.denoiser(backbone.network)(
                x_t / abar.sqrt(), sigma, text=text, local=local
            )
        v_hat = (predicted - (1 - abar).sqrt() * x_t) / abar.sqrt()
        v = abar.sqrt() * eps - (1 - abar).sqrt() * x0
        torch.testing.assert_close(
            process.v_loss(x0_hat, x0, sigma[None]),
            (v_hat - v).square().mean(),
            rtol=1e-3,
            atol=1e-4,
        )


def save_perco_sd(folder: Path, pipeline: Path, state_prefix: str = "") -> HyperEncoder:
    """The layout of the public reimplementation's checkpoints, on top of a pipeline folder."""
    import shutil

    shutil.copytree(pipeline, folder)
    torch.manual_seed(1)
    encoder = HyperEncoder(Rate(16, 32), N=8, M=6, codebook_dim=4, cosine=False)
    (folder / "hyper_enc").mkdir()
    config = {"cfg_ss": 16, "cfg_cs": 32, "N": 8, "M": 6, "codebook_dim": 4, "in_channels": 4}
    (folder / "hyper_enc" / "config.json").write_text(json.dumps(config))
    state = {state_prefix + k: v.contiguous() for k, v in encoder.state_dict().items()}
    save_file(state, folder / "hyper_enc" / "diffusion_pytorch_model.safetensors")
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    unet = load_file(path)
    unet["conv_in_extended.weight"] = torch.randn(8, 10, 3, 3)
    unet["conv_in_extended.bias"] = torch.randn(8)
    save_file(unet, path)
    return encoder


def test_the_public_reimplementations_checkpoints_load(pipeline, tmp_path):
    encoder = save_perco_sd(tmp_path / "perco", pipeline).eval()
    codec = PerCo(stable_diffusion(str(tmp_path / "perco")), None, steps=2).eval()
    assert [point.name for point in codec.points] == ["rate=16x16/32"]
    unet = load_file(tmp_path / "perco" / "unet" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(codec.model.backbone.unet.conv_in.weight, unet["conv_in_extended.weight"])
    assert torch.equal(codec.model.backbone.unet.conv_in.bias, unet["conv_in_extended.bias"])
    latent = torch.randn(1, 4, 8, 8)
    assert torch.equal(codec.model.encoder(0).indices(latent), encoder.indices(latent))
    x = torch.rand(1, 3, 40, 64)
    assert codec.decompress(codec.compress(x)).shape == x.shape
    with pytest.raises(ValueError, match=r"checkpoint of rate 16x16/32, not of \['8x8/256'\]"):
        PerCo(stable_diffusion(str(tmp_path / "perco")), ["8x8/256"])


def test_the_other_hyper_encoder_design_is_refused(pipeline, tmp_path):
    save_perco_sd(tmp_path / "perco", pipeline, state_prefix="proj_in.")
    with pytest.raises(ValueError, match=r"another design.*proj_in"):
        stable_diffusion(str(tmp_path / "perco"))


def test_what_is_no_pipeline_says_so(tmp_path):
    with pytest.raises(ValueError, match="could not load a Stable Diffusion pipeline"):
        stable_diffusion(str(tmp_path))
