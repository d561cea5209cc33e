"""A latent diffusion model of Stable Diffusion 2.1's sizes, with random weights."""

import torch

from diffcodec.diffusion.schedule import linear_alphas_cumprod
from diffcodec.latent.autoencoder import LatentSpace
from diffcodec.latent.backbone import Backbone


def full_size_backbone() -> Backbone:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
    )
    unet = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(320, 640, 1280, 1280),
        attention_head_dim=(5, 10, 20, 20),
        cross_attention_dim=1024,
        use_linear_projection=True,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=23,
            num_attention_heads=16,
            max_position_embeddings=77,
        )
    )
    return Backbone(
        LatentSpace(vae, scale=0.18215),
        unet,
        text_encoder,
        lambda texts: torch.zeros(len(texts), 77, dtype=torch.int64),
        alphas_cumprod=linear_alphas_cumprod(1000, beta_start=0.00085, beta_end=0.012),
        prediction="v",
    )
