import json

import pytest
import torch
from diffusers import UNet2DConditionModel

from diffcodec.latent.stable_diffusion import load_pipeline, stable_diffusion
from tests.latent.tiny import save_pipeline


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return save_pipeline(tmp_path_factory.mktemp("sd"))


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


def test_its_parts_are_in_single_precision_and_its_texts_of_one_length(pipeline):
    parts = load_pipeline(str(pipeline))
    for network in (parts.latents, parts.unet, parts.text_encoder):
        assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert parts.tokenizer(["a cat", "word " * 200]).shape == (2, 77)
    assert parts.scheduler["prediction_type"] == "epsilon"


@pytest.mark.parametrize(
    ("theirs", "ours"), [("epsilon", "eps"), ("v_prediction", "v"), ("sample", "x0")]
)
def test_what_it_predicts_is_read_off_its_scheduler(tmp_path, theirs, ours):
    assert stable_diffusion(str(save_pipeline(tmp_path, theirs))).prediction == ours


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": 2816},
            "its U-Net has addition_embed_type=text_time",  # SDXL
        ),
        ({"class_embed_type": "projection"}, "its U-Net has class_embed_type=projection"),
        ({"num_class_embeds": 1000}, "its U-Net has num_class_embeds=1000"),
        ({"cross_attention_dim": 24}, "its U-Net attends to 24 channels, its text encoder has 16"),
    ],
)
def test_another_layout_is_refused_in_one_line(tmp_path, changes, reason):
    folder = save_pipeline(tmp_path)
    path = folder / "unet" / "config.json"
    if "cross_attention_dim" in changes:
        other = UNet2DConditionModel.from_config({**json.loads(path.read_text()), **changes})
        other.save_pretrained(folder / "unet")
    else:  # before its weights are loaded
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(
        ValueError, match=r"is not supported, choose Stable Diffusion 1\.x, 2\.x or XL"
    ) as error:
        stable_diffusion(str(folder))
    assert str(error.value).endswith(reason)
    assert "\n" not in str(error.value)


def test_what_is_no_pipeline_says_so(tmp_path):
    with pytest.raises(ValueError, match="could not load a Stable Diffusion pipeline"):
        stable_diffusion(str(tmp_path))
