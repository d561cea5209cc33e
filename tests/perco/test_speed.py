"""PerCo's decoder beside diffusers' own pipeline, on the same networks."""

import time

import numpy as np
import pytest
import torch

from diffcodec.latent.stable_diffusion import stable_diffusion
from diffcodec.networks.precision import training_precision
from diffcodec.perco import PerCo
from tests.perco.tiny import arguments

SIZE, STEPS, GUIDANCE, PROMPT = 256, 5, 3.0, "a red boat on a lake"


@pytest.fixture
def pipeline(tmp_path):
    """A Stable Diffusion of random weights, its U-Net of 92 million parameters; and its folder."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
    from diffusers import UNet2DConditionModel as UNet
    from transformers import CLIPTextConfig, CLIPTextModel

    from tests.latent.tiny import save_pipeline

    torch.manual_seed(0)
    small = StableDiffusionPipeline.from_pretrained(save_pipeline(tmp_path / "tiny"))
    tokenizer = small.tokenizer
    pipeline = StableDiffusionPipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(32, 64, 64, 64),
            latent_channels=4,
        ),
        unet=UNet(
            block_out_channels=(128, 256, 384, 384), cross_attention_dim=256, attention_head_dim=8
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=256,
                intermediate_size=512,
                num_hidden_layers=4,
                num_attention_heads=4,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        ),
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            timestep_spacing="trailing",
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(tmp_path / "pipeline")
    return pipeline, tmp_path / "pipeline"


@pytest.mark.slow
def test_decoding_against_diffusers(pipeline):
    """Seconds of a picture of 256x256, five guided steps, each the least of three."""
    theirs, folder = pipeline
    codec = PerCo(stable_diffusion(str(folder)), "16x16/1024", **arguments(N=32, M=32)).eval()
    codes = torch.randint(1024, (1, 8, 8))

    def ours() -> np.ndarray:
        with torch.no_grad():
            return codec.model.reconstruct(
                height=SIZE,
                width=SIZE,
                caption=PROMPT,
                index=0,
                codes=codes,
                seed=0,
                num_steps=STEPS,
                guidance=GUIDANCE,
                precision=codec.decode_precision,
            ).numpy()

    def reference() -> None:
        theirs(
            PROMPT,
            height=SIZE,
            width=SIZE,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            output_type="np",
        )

    figures = {"diffusers": least_seconds(reference), "plain": least_seconds(ours)}
    expected = ours()
    codec.to(memory_format=torch.channels_last)
    figures["channels_last"] = least_seconds(ours)
    assert np.abs(ours() - expected).max() < 1e-3
    codec.model.backbone.compile()
    figures["and compiled"] = least_seconds(ours)
    assert np.abs(ours() - expected).max() < 1e-3
    if training_precision("cpu") != "32-true":  # others emulate it, at a tenth of the speed
        codec.decode_precision = "bf16"
        figures["and bf16"] = least_seconds(ours)
        assert np.abs(ours() - expected).mean() < 0.02
    print()
    for name, seconds in figures.items():
        print(f"{name}: {seconds:.2f} s, {seconds / figures['diffusers']:.0%} of diffusers")
    assert max(figures.values()) < 1.1 * figures["diffusers"]


def least_seconds(call) -> float:
    call()  # compiles
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
