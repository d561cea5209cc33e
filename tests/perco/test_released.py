import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffcodec.perco import PerCo
from diffcodec.perco.hyper_encoder import HyperEncoder
from diffcodec.perco.rates import Rate
from diffcodec.perco.released import stable_diffusion
from tests.latent.tiny import save_pipeline
from tests.perco.tiny import arguments


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("sd"))


def small_codec(folder: Path, rates=("8x8/16",), **options) -> PerCo:
    options = {"N": 8, "M": 6, "codebook_dim": 4, "steps": 2, **options}
    return PerCo(stable_diffusion(str(folder)), rates, **arguments(**options)).eval()


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
            loss, x0_hat = process.v_loss(
                backbone.network, x0, eps, sigma[None], text=text, local=local
            )
        v_hat = (predicted - (1 - abar).sqrt() * x_t) / abar.sqrt()
        v = abar.sqrt() * eps - (1 - abar).sqrt() * x0
        expected = (v_hat - v).square().mean()
        torch.testing.assert_close(loss.squeeze(), expected, rtol=1e-3, atol=1e-4)
        error = (x0_hat - x0).square().mean() / (1 - abar)
        torch.testing.assert_close(loss.squeeze(), error, rtol=1e-3, atol=1e-4)


def save_perco_sd(folder: Path, pipeline: Path, state_prefix: str = "") -> HyperEncoder:
    """The layout of the public reimplementation's checkpoints, on top of a pipeline folder."""
    import shutil

    shutil.copytree(pipeline, folder)
    torch.manual_seed(1)
    encoder = HyperEncoder(Rate(16, 32), N=8, M=6, codebook_dim=4)
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
    quantizer = codec.model.encoder(0).quantizer
    assert quantizer.use_cosine_sim  # of the public code; its commitment loss differs
    latent = torch.randn(1, 4, 8, 8)
    assert torch.equal(codec.model.encoder(0).codes(latent), encoder.codes(latent))
    x = torch.rand(1, 3, 40, 64)
    assert codec.decompress(codec.compress(x)).shape == x.shape
    with pytest.raises(ValueError, match=r"checkpoint of rate 16x16/32, not of \['8x8/256'\]"):
        PerCo(stable_diffusion(str(tmp_path / "perco")), ["8x8/256"])


def test_its_preset_codes_with_its_checkpoint(pipeline, tmp_path):
    save_perco_sd(tmp_path / "perco", pipeline)
    options = {"grid_steps": 1000, "spacing": "leading", "steps": [2, 5], "learned_null": False}
    backbone = stable_diffusion(str(tmp_path / "perco"))
    codec = PerCo(backbone, None, **arguments(**options)).eval()
    assert not codec.model.null_text.requires_grad
    assert torch.equal(codec.model.null_text, codec.model.backbone.embed_text([""]))
    x = torch.rand(1, 3, 40, 64)
    streams = codec.compress(x, captions=["a cat"])
    x_hat = codec.decompress(streams)
    assert x_hat.shape == x.shape
    grid = PerCo(stable_diffusion(str(tmp_path / "perco")), None, grid_steps=1000, steps=2).eval()
    assert not torch.equal(grid.decompress(grid.compress(x, captions=["a cat"])), x_hat)
    with pytest.raises(ValueError, match="spacing=leading needs grid_steps=1000, got 50"):
        PerCo(stable_diffusion(str(tmp_path / "perco")), None, spacing="leading")


def test_codes_of_unit_length_are_found_alike_by_cosine_and_by_distance():
    torch.manual_seed(1)
    cosine = HyperEncoder(Rate(16, 32), N=8, M=6, codebook_dim=4).eval()
    distance = HyperEncoder(Rate(16, 32), N=8, M=6, codebook_dim=4, cosine=False).eval()
    distance.load_state_dict(cosine.state_dict())
    latent = torch.randn(2, 4, 16, 16)
    assert torch.equal(cosine.codes(latent), distance.codes(latent))
    assert not torch.allclose(
        cosine.train()(latent).commit_loss, distance.train()(latent).commit_loss
    )


def test_the_other_hyper_encoder_design_is_refused(pipeline, tmp_path):
    save_perco_sd(tmp_path / "perco", pipeline, state_prefix="proj_in.")
    with pytest.raises(ValueError, match=r"authors.*proj_in"):
        stable_diffusion(str(tmp_path / "perco"))
