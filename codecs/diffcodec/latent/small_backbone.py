"""The small backbone: Stable Diffusion's three classes with five million parameters in all.

In half precision its weights take less than 10 MiB.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffcodec.diffusion.schedule import cosine_alphas_cumprod
from diffcodec.latent.autoencoder import LatentSpace
from diffcodec.latent.backbone import Backbone
from diffcodec.latent.tokenizer import BEGIN, END, WordTokenizer

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

NUM_TIMESTEPS = 1000
PATCH = 4  # pixel-unshuffle: convolutions at full resolution are what a CPU spends its time on


def small_autoencoder(
    channels: Sequence[int] = (64, 128), *, layers: int = 1, latent_channels: int = 4
) -> LatentSpace:
    """An autoencoder of residual 3x3 blocks on pixel-unshuffled images; f = 8 with two stages."""
    return LatentSpace(_vae(channels, layers, latent_channels), patch=PATCH)


def small_backbone(
    *,
    vae_channels: Sequence[int] = (64, 128),
    vae_layers: int = 1,
    unet_channels: Sequence[int] = (40, 64, 64),
    unet_layers: int = 1,
    text_channels: int = 64,
    text_layers: int = 2,
    text_length: int = 32,
    weights: str | None = None,
    autoencoder_weights: str | None = None,
) -> Backbone:
    """Autoencoder, U-Net and text encoder with random or given weights; v-prediction, cosine.

    Args:
        vae_channels, vae_layers: stages of the autoencoder and residual blocks in each.
        unet_channels, unet_layers: the same of the U-Net; the first stage has no attention.
        text_channels, text_layers, text_length: of the text encoder.
        weights: of all of it: null (random) or a source of `diffcodec.weights`.
        autoencoder_weights: of the autoencoder alone, as `experiment=perco/autoencoder` writes
            them.

    Raises:
        ValueError: the weights cannot be had or do not fit.
    """
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = WordTokenizer(text_length)
    attending = len(unet_channels) - 1
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * attending),
        up_block_types=(*["CrossAttnUpBlock2D"] * attending, "UpBlock2D"),
        block_out_channels=tuple(unet_channels),
        layers_per_block=unet_layers,
        cross_attention_dim=text_channels,
        attention_head_dim=4,  # heads, in spite of the name
        norm_num_groups=8,
        use_linear_projection=True,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=tokenizer.vocabulary_size,
            hidden_size=text_channels,
            intermediate_size=2 * text_channels,
            num_hidden_layers=text_layers,
            num_attention_heads=4,
            max_position_embeddings=text_length,
            pad_token_id=END,
            bos_token_id=BEGIN,
            eos_token_id=END,
        )
    )
    backbone = Backbone(
        LatentSpace(_vae(vae_channels, vae_layers, 4), patch=PATCH),
        unet,
        text_encoder,
        tokenizer,
        alphas_cumprod=cosine_alphas_cumprod(NUM_TIMESTEPS),
        prediction="v",
    )
    if autoencoder_weights is not None:
        backbone.load_latents(autoencoder_weights)
    if weights is not None:
        backbone.load_weights(weights)
    return backbone


def _vae(channels: Sequence[int], layers: int, latent_channels: int) -> "AutoencoderKL":
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3 * PATCH**2,
        out_channels=3 * PATCH**2,
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=tuple(channels),
        layers_per_block=layers,
        latent_channels=latent_channels,
        norm_num_groups=8,
        mid_block_add_attention=False,
    )
