"""Latent diffusion models with random weights that are small enough for a test."""

import json
from pathlib import Path

import torch

from diffcodec.latent.backbone import Backbone
from diffcodec.latent.small_backbone import small_autoencoder, small_backbone


def tiny_backbone(**options) -> Backbone:
    """The small backbone, smaller; the same weights every time."""
    torch.manual_seed(0)
    latents = options.pop("latents", None) or small_autoencoder((16, 16))
    sizes = {
        "unet_channels": (16, 32),
        "text_channels": 16,
        "text_layers": 1,
        "text_length": 12,
    }
    return small_backbone(latents, **{**sizes, **options})


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


def save_sdxl(folder: Path) -> Path:
    """A randomly initialised Stable Diffusion XL pipeline, as `save_pretrained` writes it."""
    from diffusers import StableDiffusionPipeline as SmallPipeline
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    small = SmallPipeline.from_pretrained(save_pipeline(folder / "small"))
    config = small.text_encoder.config.to_dict()
    second = CLIPTextConfig(**{**config, "hidden_size": 24, "projection_dim": 20})
    small.vae.register_to_config(scaling_factor=0.13025)
    torch.manual_seed(1)
    pipeline = StableDiffusionXLPipeline(
        vae=small.vae,
        unet=UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16 + 24,
            attention_head_dim=(2, 4),
            transformer_layers_per_block=(1, 2),
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=20 + 6 * 8,
            norm_num_groups=4,
        ),
        text_encoder=CLIPTextModel(CLIPTextConfig(**{**config, "num_hidden_layers": 2})),
        text_encoder_2=CLIPTextModelWithProjection(second),
        tokenizer=small.tokenizer,
        tokenizer_2=small.tokenizer,
        scheduler=small.scheduler,
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def save_pixel_model(folder: Path, **options) -> Path:
    """A randomly initialised DDPM of pixels, as `save_pretrained` writes it."""
    from diffusers import DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    sizes = {
        "sample_size": 16,
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
    }
    UNet2DModel(**{**sizes, **options}).save_pretrained(folder / "unet")
    DDPMScheduler().save_pretrained(folder / "scheduler")
    return folder
