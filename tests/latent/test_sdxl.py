"""Against diffusers' own pipeline of Stable Diffusion XL, on a tiny one with random weights."""

import json
import shutil

import pytest
import torch

from diffcodec.ddcm import DDCM
from diffcodec.diffc import DiffC
from diffcodec.latent.sdxl import SDXLBackbone
from diffcodec.latent.stable_diffusion import load_pipeline, stable_diffusion
from diffcodec.perco import PerCo
from diffcodec.sdedit.latent import LatentPrior
from tests.latent.tiny import save_pipeline, save_sdxl


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def backbone(folder) -> SDXLBackbone:
    loaded = stable_diffusion(str(folder))
    assert isinstance(loaded, SDXLBackbone)
    return loaded.eval()


@pytest.fixture(scope="module")
def theirs(folder):
    from diffusers import StableDiffusionXLPipeline

    return StableDiffusionXLPipeline.from_pretrained(folder, add_watermarker=False)


@torch.no_grad()
def test_texts_and_sizes_are_what_the_pipeline_tells_its_network(backbone, theirs):
    texts = ["a red dog", ""]
    text, _, pooled, _ = theirs.encode_prompt(texts, do_classifier_free_guidance=False)
    ours = backbone.text_condition(texts)
    torch.testing.assert_close(ours["text"], text)
    torch.testing.assert_close(ours["pooled"], pooled)
    assert not torch.equal(*ours["pooled"].split(1))
    torch.testing.assert_close(backbone.null_condition()["pooled"], pooled[1:])
    projection = theirs.text_encoder_2.config.projection_dim
    ids = theirs._get_add_time_ids((72, 100), (0, 0), (72, 100), torch.float32, projection)
    assert torch.equal(backbone.size_condition(72, 100)["time_ids"], ids)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@torch.no_grad()
def test_a_guided_estimate_is_what_the_pipeline_steps_to(backbone, theirs, guidance):
    # One step of its DDIM from the last timestep to the end shows its estimate of x0.
    codec = DiffC(backbone, 1.0, caption="a red dog", log2_candidates=8).eval()
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    theirs.set_progress_bar_config(disable=True)
    theirs.scheduler.register_to_config(timestep_spacing="trailing", set_alpha_to_one=True)
    expected = theirs(
        "a red dog",
        negative_prompt="",
        latents=noise,
        num_inference_steps=1,
        guidance_scale=guidance,
        height=64,
        width=64,
        output_type="latent",
    ).images
    sigma = codec.process.sigmas[-1]
    estimate = codec._estimate("a red dog", (64, 64), guidance)
    found = estimate(noise * (1 + sigma**2).sqrt().float(), sigma)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_its_latents_are_scaled_as_the_pipelines(backbone, theirs):
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    z = theirs.vae.encode(2 * x - 1).latent_dist.mode() * theirs.vae.config.scaling_factor
    torch.testing.assert_close(backbone.latents.encode(x), z, rtol=1e-4, atol=1e-4)
    assert backbone.latents.scale.unique().item() == pytest.approx(0.13025)


@pytest.mark.parametrize("kind", [DiffC, DDCM])
def test_zero_shot_codecs_go_over_it_with_captions(kind, backbone, photo):
    codec = kind(backbone, 1.0, caption=[None, "a red dog"], guidance=3.0, steps=2).eval()
    x = photo[..., :72, :100]
    streams = []
    for point in codec.points:
        (stream,) = codec.compress(x, point)
        assert codec.decompress([stream], point).shape == x.shape
        streams.append(stream)
    assert streams[0] != streams[1]


def test_the_size_of_the_picture_reaches_the_network(backbone):
    codec = DiffC(backbone, 1.0).eval()
    x, sigma = torch.randn(1, 4, 8, 8), torch.tensor(1.0, dtype=torch.float64)
    with torch.no_grad():
        estimates = [codec._estimate(None, size)(x, sigma) for size in ((64, 64), (64, 60))]
    assert not torch.equal(*estimates)


def test_it_is_held_in_half_precision_with_both_encoders(folder):
    backbone = stable_diffusion(str(folder), memory="frozen")
    assert backbone.text_encoder_2.dtype == backbone.text_encoder.dtype == torch.bfloat16
    condition = backbone.text_condition(["a red dog"])
    assert {value.dtype for value in condition.values()} == {torch.float32}


def test_what_does_not_take_it_says_so(folder, backbone):
    with pytest.raises(ValueError, match=r"PerCo supports Stable Diffusion 1\.x and 2\.x"):
        PerCo(backbone)
    with pytest.raises(ValueError, match=r"must be a Stable Diffusion 1\.x or 2\.x, not XL"):
        LatentPrior(str(folder))


@pytest.mark.parametrize(
    "index",
    [
        {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]},
        {"_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": [None, None]},
    ],
)
def test_other_pipelines_are_refused_in_one_line(tmp_path, index):
    parts = {"unet": ["diffusers", "UNet2DConditionModel"], "text_encoder": ["t", "CLIPTextModel"]}
    if "transformer" in index:
        parts.pop("unet")
    (tmp_path / "model_index.json").write_text(json.dumps({**parts, **index}))
    message = rf"is a {index['_class_name']}, .* must be Stable Diffusion 1\.x, 2\.x or XL \(base\)"
    with pytest.raises(ValueError, match=message) as error:
        stable_diffusion(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", ["missing", "null"])
def test_a_unet_without_the_conditions_of_xl_is_refused(folder, tmp_path, change):
    copy = shutil.copytree(folder, tmp_path / "pipeline")
    path = copy / "unet" / "config.json"
    config = json.loads(path.read_text())
    del config["addition_embed_type"]
    if change == "null":
        config["addition_embed_type"] = None
    path.write_text(json.dumps(config))
    message = r"is not supported, choose .*: its U-Net has addition_embed_type=None$"
    with pytest.raises(ValueError, match=message):
        stable_diffusion(str(copy))


def test_the_others_have_one_text_encoder(tmp_path):
    assert load_pipeline(str(save_pipeline(tmp_path))).text_encoder_2 is None
