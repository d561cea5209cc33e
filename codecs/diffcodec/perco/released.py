"""Checkpoints of PerCo (SD), the public reimplementation on Stable Diffusion.

They have diffusers' layout of Stable Diffusion plus a folder `hyper_enc/`. Their U-Net stores the
widened first convolution as `conv_in_extended`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffcodec.latent import stable_diffusion as pipelines
from diffcodec.latent.backbone import Backbone
from diffcodec.weights.configuration import configured
from diffcodec.weights.local_files import is_folder, local_path

HYPER_ENCODER = "hyper_enc"
EXTENDED = "conv_in_extended."


@configured
def stable_diffusion(source: str, *, memory: str = "full") -> Backbone:
    """Load a Stable Diffusion, or a checkpoint of PerCo (SD), as a backbone.

    Args:
        source: `hf://owner/repo[@revision]` or a folder, in diffusers' layout; a checkpoint of
            PerCo (SD) must be a folder.
        memory: see `Backbone.hold`.

    Raises:
        ValueError: the source cannot be loaded or is not such a pipeline, or `memory` is unknown.
    """
    backbone = pipelines.stable_diffusion(source)
    folder = local_path(source)
    if is_folder(folder / HYPER_ENCODER):
        _use_extended(backbone.unet, _read_tensors(folder / "unet"))
        backbone.hyper_encoder_weights = read_hyper_encoder(folder / HYPER_ENCODER)
    backbone.hold(memory)
    return backbone


def read_hyper_encoder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read settings and state dict from the public reimplementation's folder `hyper_enc/`.

    The settings are `grid`, `num_codes`, `N`, `M`, `codebook_dim` and `cosine`. The codebook is
    searched by cosine similarity. Its codes have unit length, so a Euclidean search finds the same
    codes, but further training would differ.

    Raises:
        ValueError: the folder cannot be read, or contains another design than the authors'
            hyper-encoder.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {folder / 'config.json'}: {error}") from error
    state = _read_tensors(folder)
    if not any(key.startswith("backbone.") for key in state):
        raise ValueError(
            f"{folder} does not contain the authors' hyper-encoder: its weights "
            f"begin with {sorted({key.partition('.')[0] for key in state})}"
        )
    settings = {
        "grid": config.get("cfg_ss", 64),
        "num_codes": config.get("cfg_cs", 256),
        "N": config.get("N", 192),
        "M": config.get("M", 320),
        "codebook_dim": config.get("codebook_dim", 32),
        "cosine": True,
    }
    return settings, state


def _use_extended(unet: Any, state: dict[str, Tensor]) -> None:
    """Replace the U-Net's first convolution by `conv_in_extended` of a checkpoint."""
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
