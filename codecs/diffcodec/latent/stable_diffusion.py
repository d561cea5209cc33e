"""Loader of Stable Diffusion 1.x, 2.x and XL, as separate parts or as a backbone.

A source is `hf://owner/repo[@revision]` or a folder, in diffusers' layout (`vae/`, `unet/`,
`text_encoder/`, `tokenizer/`, `scheduler/`, and for XL `text_encoder_2/` and `tokenizer_2/`).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffcodec.diffusion.schedule import linear_alphas_cumprod, scheduler_facts
from diffcodec.latent.autoencoder import LatentSpace
from diffcodec.latent.backbone import Backbone
from diffcodec.latent.sdxl import SDXLBackbone
from diffcodec.weights.configuration import configured
from diffcodec.weights.sources import find_pipeline

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

SUPPORTED = "Stable Diffusion 1.x, 2.x or XL (base)"


@dataclass(frozen=True)
class Pipeline:
    """The parts of a Stable Diffusion; the networks are in float32.

    Attributes:
        latents: autoencoder, with the scale and shift of its latents.
        unet, text_encoder: U-Net and text encoder.
        tokenizer: function from texts to token indices (B, L).
        scheduler: scheduler config, with the noise schedule and the prediction type.
        text_encoder_2, tokenizer_2: second text encoder and tokenizer of XL; None for 1.x and 2.x.
    """

    latents: LatentSpace
    unet: "UNet2DConditionModel"
    text_encoder: "CLIPTextModel"
    tokenizer: "HubTokenizer"
    scheduler: dict[str, Any]
    text_encoder_2: "CLIPTextModelWithProjection | None" = None
    tokenizer_2: "HubTokenizer | None" = None


class HubTokenizer:
    """A CLIP tokenizer: texts -> indices (B, L), padded and truncated to the model's length."""

    def __init__(self, source: str, subfolder: str = "tokenizer", **options: Any) -> None:
        from transformers import CLIPTokenizer

        self._tokenizer = CLIPTokenizer.from_pretrained(source, subfolder=subfolder, **options)

    def __call__(self, texts: list[str]) -> Tensor:
        indices: Tensor = self._tokenizer(
            texts,
            padding="max_length",
            max_length=self._tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return indices


# Conditions other than the text, which identify the U-Nets of SDXL, unCLIP and upscalers.
_OTHER_CONDITIONS = (
    "addition_embed_type",
    "encoder_hid_dim_type",
    "class_embed_type",
    "num_class_embeds",
)


class UnknownLayoutError(ValueError):
    """A pipeline that is not supported."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"{source!r} is not supported, choose {SUPPORTED}: {reason}")


def _check_conditions(source: str, unet: Any, *, is_xl: bool) -> None:
    for name in _OTHER_CONDITIONS:
        expected = "text_time" if is_xl and name == "addition_embed_type" else None
        found = unet.get(name)
        if found != expected:
            raise UnknownLayoutError(source, f"its U-Net has {name}={found}")


def load_pipeline(source: str) -> Pipeline:
    """Load the parts of a Stable Diffusion.

    Args:
        source: `hf://owner/repo[@revision]` or a folder.

    Raises:
        ValueError: the source cannot be loaded, or is not such a pipeline.
    """
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    place, options = find_pipeline(source)
    is_xl = _is_xl(source, place, options)
    text_encoder_2: Any = None
    tokenizer_2 = None
    try:
        # Check the config before gigabytes of weights are loaded.
        _check_conditions(
            source,
            UNet2DConditionModel.load_config(place, subfolder="unet", **options),
            is_xl=is_xl,
        )
        vae: Any = AutoencoderKL.from_pretrained(place, subfolder="vae", **options)
        unet: Any = UNet2DConditionModel.from_pretrained(place, subfolder="unet", **options)
        text_encoder: Any = CLIPTextModel.from_pretrained(
            place, subfolder="text_encoder", **options
        )
        tokenizer = HubTokenizer(place, **options)
        if is_xl:
            text_encoder_2 = CLIPTextModelWithProjection.from_pretrained(
                place, subfolder="text_encoder_2", **options
            ).float()
            tokenizer_2 = HubTokenizer(place, "tokenizer_2", **options)
        scheduler: Any = DDPMScheduler.load_config(place, subfolder="scheduler", **options)
    except UnknownLayoutError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"could not load a Stable Diffusion pipeline from {source!r} (a hub repository or "
            f"a folder in diffusers' layout): {error}"
        ) from error
    encoders = [encoder for encoder in (text_encoder, text_encoder_2) if encoder is not None]
    width = sum(encoder.config.hidden_size for encoder in encoders)
    wanted = unet.config.cross_attention_dim
    if width != wanted:
        raise UnknownLayoutError(
            source, f"its U-Net attends to {wanted} channels, its text encoder has {width}"
        )
    latents = LatentSpace(
        vae.float(),
        scale=vae.config.scaling_factor,
        shift=getattr(vae.config, "shift_factor", None) or 0.0,
    )
    return Pipeline(
        latents,
        unet.float(),
        text_encoder.float(),
        tokenizer,
        dict(scheduler),
        text_encoder_2,
        tokenizer_2,
    )


def _is_xl(source: str, place: str, options: dict[str, Any]) -> bool:
    """Whether a pipeline is SDXL; a pipeline without an index counts as 1.x or 2.x.

    Raises:
        ValueError: the pipeline has no U-Net or no text encoder.
    """
    from diffusers import DiffusionPipeline

    try:
        index = DiffusionPipeline.load_config(place, **options)
    except OSError:
        return False
    parts = {name: value for name, value in index.items() if value and value != [None, None]}
    if not {"unet", "text_encoder"} <= set(parts):
        raise ValueError(
            f"{source!r} is a {index.get('_class_name')}, which is not supported: the backbone "
            f"must be {SUPPORTED}"
        )
    return "text_encoder_2" in parts


_UNET: dict[str, Any] = {"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280)}
# Differences between the versions: options of U-Net and text encoder, and the prediction type.
SIZES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "sd15": (
        {**_UNET, "attention_head_dim": 8, "cross_attention_dim": 768},
        {
            **{"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12},
            "num_attention_heads": 12,
        },
        "eps",
    ),
    "sd21": (
        {
            **{**_UNET, "attention_head_dim": (5, 10, 20, 20), "cross_attention_dim": 1024},
            "use_linear_projection": True,
        },
        {
            **{"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23},
            "num_attention_heads": 16,
        },
        "v",
    ),
}


def blank_stable_diffusion(size: str) -> Backbone:
    """A backbone with Stable Diffusion's architecture and random weights.

    All texts get the same tokens.

    Args:
        size: version, `sd15` or `sd21`.

    Raises:
        ValueError: the size is unknown.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}, choose from {', '.join(SIZES)}")
    of_unet, of_text, prediction = SIZES[size]
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
    )
    text = CLIPTextConfig(vocab_size=49408, max_position_embeddings=77, **of_text)
    return Backbone(
        LatentSpace(vae, scale=0.18215),
        UNet2DConditionModel(**of_unet),
        CLIPTextModel(text),
        lambda texts: torch.zeros(len(texts), 77, dtype=torch.int64),
        alphas_cumprod=linear_alphas_cumprod(1000, beta_start=0.00085, beta_end=0.012),
        prediction=prediction,
    )


@configured
def stable_diffusion(source: str, *, memory: str = "full") -> Backbone:
    """Load a Stable Diffusion as a backbone.

    Args:
        source: `hf://owner/repo[@revision]` or a folder, in diffusers' layout.
        memory: which networks have bfloat16 weights: `full`, `frozen` or `all`, see
            `Backbone.hold`.

    Raises:
        ValueError: the source cannot be loaded or is not such a pipeline, or `memory` is unknown.
    """
    pipeline = load_pipeline(source)
    alphas_cumprod, prediction = scheduler_facts(pipeline.scheduler)
    parts: Any = (pipeline.latents, pipeline.unet, pipeline.text_encoder, pipeline.tokenizer)
    process: Any = {"alphas_cumprod": alphas_cumprod, "prediction": prediction}
    backbone: Backbone
    if pipeline.text_encoder_2 is None:
        backbone = Backbone(*parts, **process)
    else:
        second: Any = (pipeline.text_encoder_2, pipeline.tokenizer_2)
        backbone = SDXLBackbone(*parts, *second, **process)
    backbone.trained = True
    backbone.hold(memory)
    return backbone
