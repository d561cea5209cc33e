"""A Stable Diffusion in diffusers' layout whose weights are drawn by a rule instead of stored.

`reference.json` beside this file is what the authors' code computes with it.
"""

import math
import zlib
from pathlib import Path

import numpy as np
import torch

from tests.latent.tiny import save_pipeline


def save_drawn_pipeline(folder: Path, prediction_type: str) -> Path:
    """The tiny pipeline, with the name of each weight as the seed of its values."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    path = save_pipeline(folder, prediction_type)
    parts = (
        ("unet", UNet2DConditionModel),
        ("vae", AutoencoderKL),
        ("text_encoder", CLIPTextModel),
    )
    for name, kind in parts:
        network = kind.from_pretrained(path / name)
        with torch.no_grad():
            for key, parameter in network.named_parameters():
                parameter.copy_(draw(f"{name}.{key}", tuple(parameter.shape)))
        network.save_pretrained(path / name)
    return path


def draw(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Numbers that belong to a name: gains near 1, other vectors near 0, kernels of unit gain."""
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) == 1:
        values = 0.1 * values + ("norm" in name and name.endswith("weight"))
    else:
        values = values / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32))


def picture(side: int = 64) -> torch.Tensor:
    """An image (1, 3, H, W) in [0, 1] of waves."""
    rows, columns = np.mgrid[:side, :side] / side
    waves = [np.sin(5 * rows + k * columns * 3) * np.cos(2 * k * rows) for k in (1, 2, 3)]
    return torch.from_numpy(np.stack(waves)[None] / 2 + 0.5).float()


def codebook(size: int, length: int) -> torch.Tensor:
    """Standard normal numbers (length, size)."""
    values = np.random.RandomState(7).standard_normal((length, size))
    return torch.from_numpy(values.astype(np.float32))
