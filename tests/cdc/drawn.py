"""Weights of width 4 in the authors' layout, drawn by a rule instead of stored.

`{x,eps}_drawn4_outputs.safetensors` beside this file are what the authors' code computes with them.
`drawn_layout.json` lists the names and shapes of their state dict: those of both parameterizations,
and those that only one of them has.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent
WIDTH = 4

# Factors that keep the numbers in the range of a trained model's.
RESCALED = {
    # The last stage of the encoder (x0 and eps): latents of a few quantisation steps.
    "context_fn.enc.3.1.conv.weight": 0.5,
    "context_fn.enc.3.2.conv.weight": 0.5,
    # The last layer of the U-Net: many steps of a sampler must not amplify rounding.
    "denoise_fn.final_conv.1.weight": 0.1,
}


def drawn_state(prediction: str) -> dict[str, Tensor]:
    """The state dict of a parameterization, `x0` or `eps`, in the authors' names."""
    layout = json.loads((FOLDER / "drawn_layout.json").read_text())
    shapes = {**layout["both"], **layout[prediction]}
    return {name: draw(name, tuple(shape)) for name, shape in shapes.items()}


def draw(name: str, shape: tuple[int, ...]) -> Tensor:
    """The float32 tensor that belongs to a name and a shape.

    It is standard normal with the name's checksum as seed. Gains of norms are then near 1, kernels
    of convolutions keep the variance of their input, and all else is near 0.
    """
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    fan_in = math.prod(shape[1:])
    if name.endswith(".g"):
        values = 1 + 0.1 * values
    elif len(shape) == 4 and fan_in > 1 and not name.endswith("_medians"):
        values = values / math.sqrt(fan_in)
    else:
        values = 0.1 * values
    return torch.from_numpy((RESCALED.get(name, 1.0) * values).astype(np.float32))
