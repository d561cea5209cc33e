"""Stable Diffusion 1.x and 2.x as backbone, and the public PerCo (SD) built on it.

Source: a repository of the hub or a folder in diffusers' layout (`vae/`, `unet/`, `text_encoder/`,
`tokenizer/`, `scheduler/`). The public reimplementation's checkpoints have the same layout and
beside it `hyper_enc/`; their U-Net has the widened first convolution as `conv_in_extended`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffcodec.diffusion.schedule import scheduler_facts
from diffcodec.perco.backbone import Backbone

HYPER_ENCODER = "hyper_enc"
EXTENDED = "conv_in_extended."
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v"}  # diffusers' names


def stable_diffusion(source: str, *, revision: str | None = None) -> Backbone:
    """Load a backbone, in float32.

    Args:
        source: `owner/repository` or a folder.
        revision: of the repository.

    Raises:
        ValueError: it cannot be had, or is no such pipeline.
    """
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel

    options: dict[str, Any] = {"revision": revision} if revision else {}
    folder = Path(source).expanduser()
    if folder.is_dir():
        source = str(folder)
    try:
        vae = AutoencoderKL.from_pretrained(source, subfolder="vae", **options)
        unet = UNet2DConditionModel.from_pretrained(source, subfolder="unet", **options)
        text_encoder = CLIPTextModel.from_pretrained(source, subfolder="text_encoder", **options)
        tokenizer = HubTokenizer(source, **options)
        scheduler = DDPMScheduler.load_config(source, subfolder="scheduler", **options)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"could not load a Stable Diffusion pipeline from {source!r} (owner/repository on the "
            f"hub, or a folder in diffusers' layout): {error}"
        ) from error
    alphas_cumprod, prediction = scheduler_facts(scheduler, PREDICTIONS)
    hyper_encoder_weights = None
    if (folder / HYPER_ENCODER).is_dir():
        _use_extended(unet, _read_tensors(folder / "unet"))
        hyper_encoder_weights = read_hyper_encoder(folder / HYPER_ENCODER)
    backbone = Backbone(
        vae,
        unet,
        text_encoder,
        tokenizer,
        alphas_cumprod=alphas_cumprod,
        prediction=prediction,
        latent_scale=vae.config.scaling_factor,
        latent_shift=getattr(vae.config, "shift_factor", None) or 0.0,
        hyper_encoder_weights=hyper_encoder_weights,
    )
    return backbone.float()


class HubTokenizer:
    """A CLIP tokenizer: texts -> indices (B, L), filled up and cut to the model's length."""

    def __init__(self, source: str, **options: Any) -> None:
        from transformers import CLIPTokenizer

        self._tokenizer = CLIPTokenizer.from_pretrained(source, subfolder="tokenizer", **options)

    def __call__(self, texts: list[str]) -> Tensor:
        indices: Tensor = self._tokenizer(
            texts,
            padding="max_length",
            max_length=self._tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        return indices


def read_hyper_encoder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The public reimplementation's `hyper_enc/` -> its settings and state dict.

    Settings: `grid`, `num_codes`, `N`, `M` and `codebook_dim`. Its search is Euclidean.

    Raises:
        ValueError: the folder holds another design than the authors' hyper-encoder.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {folder / 'config.json'}: {error}") from error
    state = _read_tensors(folder)
    if not any(key.startswith("backbone.") for key in state):
        raise ValueError(
            f"{folder} does not hold the authors' hyper-encoder but another design: its weights "
            f"begin with {sorted({key.partition('.')[0] for key in state})}"
        )
    settings = {
        "grid": config.get("cfg_ss", 64),
        "num_codes": config.get("cfg_cs", 256),
        "N": config.get("N", 192),
        "M": config.get("M", 320),
        "codebook_dim": config.get("codebook_dim", 32),
    }
    return settings, state


def _use_extended(unet: Any, state: dict[str, Tensor]) -> None:
    """Put `conv_in_extended` of a checkpoint in the place of the U-Net's first convolution."""
    weight = state.get(EXTENDED + "weight")
    if weight is None:
        raise ValueError(f"the U-Net beside {HYPER_ENCODER}/ has no {EXTENDED}weight")
    old = unet.conv_in
    unet.conv_in = nn.Conv2d(weight.shape[1], weight.shape[0], old.kernel_size, padding=old.padding)
    with torch.no_grad():
        unet.conv_in.weight.copy_(weight)
        unet.conv_in.bias.copy_(state[EXTENDED + "bias"])
    unet.register_to_config(in_channels=weight.shape[1])


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    state: dict[str, Tensor] = {}
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise ValueError(f"no safetensors in {folder}")
    for path in paths:
        state |= load_file(path)
    return state
