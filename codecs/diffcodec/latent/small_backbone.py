"""The small backbone: Stable Diffusion's three classes with 13 million parameters in all.

In half precision its weights take 26 MiB.
"""

from collections.abc import Sequence

from diffcodec.diffusion.schedule import cosine_alphas_cumprod
from diffcodec.latent.autoencoder import LatentSpace
from diffcodec.latent.backbone import Backbone
from diffcodec.latent.tokenizer import BEGIN, END, WordTokenizer
from diffcodec.weights.configuration import configured

NUM_TIMESTEPS = 1000
PATCH = 4  # pixel-unshuffle: convolutions at full resolution are what a CPU spends its time on


@configured
def small_autoencoder(
    channels: Sequence[int] = (64, 128),
    *,
    layers: int = 1,
    latent_channels: int = 4,
    weights: str | None = None,
) -> LatentSpace:
    """An autoencoder of residual 3x3 blocks on pixel-unshuffled images; f = 8 with two stages.

    Args:
        channels, layers: of its stages, and residual blocks in each.
        latent_channels: of a latent.
        weights: null (random) or a source of `diffcodec.weights`: of an autoencoder, or of what is
            built on one.

    Raises:
        ValueError: the weights cannot be had or do not fit.
    """
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
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
    latents = LatentSpace(vae, patch=PATCH)
    if weights is not None:
        latents.load_weights(weights)
    return latents


@configured
def small_backbone(
    latents: LatentSpace | None = None,
    *,
    unet_channels: Sequence[int] = (64, 128, 192),
    unet_layers: int = 1,
    text_channels: int = 64,
    text_layers: int = 2,
    text_length: int = 32,
    memory: str = "full",
    weights: str | None = None,
) -> Backbone:
    """Autoencoder, U-Net and text encoder with random or given weights; v-prediction, cosine.

    Args:
        latents: the autoencoder; null is a `small_autoencoder`.
        unet_channels, unet_layers: stages of the U-Net and residual blocks in each; the first
            stage has no attention.
        text_channels, text_layers, text_length: of the text encoder.
        memory: see `Backbone.hold`.
        weights: of all of it: null (random) or a source of `diffcodec.weights`: of a backbone, or
            of a whole PerCo.

    Raises:
        ValueError: the weights cannot be had or do not fit, or there is no such choice of memory.
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
        small_autoencoder() if latents is None else latents,
        unet,
        text_encoder,
        tokenizer,
        alphas_cumprod=cosine_alphas_cumprod(NUM_TIMESTEPS),
        prediction="v",
    )
    if weights is not None:
        backbone.load_weights(weights)
    backbone.hold(memory)
    return backbone
