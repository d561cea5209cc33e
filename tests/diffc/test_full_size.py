"""Stable Diffusion 2.1's sizes with random weights, one image through three levels: with `-s`."""

import resource
import time
from itertools import pairwise

import pytest
import torch

from diffcodec.diffc import DiffC
from diffcodec.diffusion.schedule import linear_alphas_cumprod
from diffcodec.latent.autoencoder import LatentSpace
from diffcodec.latent.backbone import Backbone

pytestmark = pytest.mark.slow


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


def test_three_levels_at_full_size(photo):
    backbone = full_size_backbone()
    assert sum(p.numel() for p in backbone.unet.parameters()) == pytest.approx(866e6, rel=0.01)
    # Three levels of one chunk of 17 bits each, after the header and the error of the first.
    codec = DiffC(backbone, 8 * 18 / 512**2, decoder="mean", decode_precision="bf16").eval()
    codec.fingerprint()
    seconds = [time.perf_counter()]
    (stream,) = codec.compress(photo)
    seconds.append(time.perf_counter())
    x_hat = codec.decompress([stream])
    seconds.append(time.perf_counter())
    levels = codec._read(codec._unpack([stream])[0].sections[0], 512, 512).levels
    encode, decode = (after - before for before, after in pairwise(seconds))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{len(stream)} bytes, {len(levels)} levels: {encode:.1f} s to encode, {decode:.1f} s to "
        f"decode in bf16, {peak:.1f} GiB at most"
    )
    assert len(levels) == 3
    assert x_hat.shape == photo.shape
