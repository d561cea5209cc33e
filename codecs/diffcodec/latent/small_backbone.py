"""The small backbone: the network classes of Stable Diffusion with 13 million parameters in total.

In half precision its weights take 26 MiB.
"""

from collections.abc import Sequence

from diffcodec.diffusion.schedule import cosine_alphas_cumprod
from diffcodec.latent.autoencoder import LatentSpace
from diffcodec.latent.backbone import Backbone
from diffcodec.latent.tokenizer import BEGIN, END, WordTokenizer
from diffcodec.weights.configuration import configured

NUM_TIMESTEPS = 1000
PATCH = 4  # pixel-unshuffle factor; convolutions at full resolution would dominate CPU time


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
        channels, layers: number of channels of each stage, and of residual blocks per stage.
        latent_channels: number of channels of a latent.
        weights: null (random), or a source of `diffcodec.weights` for the weights of an autoencoder
            or of a model that contains one.

    Raises:
        ValueError: the weights cannot be loaded or do not fit.
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
    """A small latent diffusion model with v-prediction and a cosine schedule.

    Args:
        latents: autoencoder; null selects `small_autoencoder`.
        unet_channels, unet_layers: number of channels of each stage of the U-Net, and of residual
            blocks per stage; the first stage has no attention.
        text_channels, text_layers, text_length: width, number of layers and maximum number of
            tokens of the text encoder.
        memory: which networks have bfloat16 weights: `full`, `frozen` or `all`, see
            `Backbone.hold`.
        weights: null (random), or a source of `diffcodec.weights` for the weights of a whole
            backbone or PerCo.

    Raises:
        ValueError: the weights cannot be loaded or do not fit, or `memory` is unknown.
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
        attention_head_dim=4,  # the number of heads, despite the name
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
