"""The published checkpoints: low-rank changes of the networks, merged into their weights.

A checkpoint holds `state_dict_codec`, `state_dict_vae` and `state_dict_unet`; of the last two what
was trained alone: the changes W + (alpha / r) B A of their layers (Hu et al. 2022) as peft names
them, and the U-Net's first convolution. ELIC's file is another one.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffcodec.weights.loading import remap

PARTS = ("state_dict_codec", "state_dict_vae", "state_dict_unet")
_ALPHA = 8  # peft's default, which the authors leave as it is
_A, _B = ".lora_A.", ".lora_B."

# From the names of CompressAI 1.2.6 to those of today; tables that follow from the rest are left.
KEY_TABLE: list[tuple[str, str | None]] = [
    (r"gaussian_conditional\.", None),
    (r"entropy_bottleneck\._(offset|quantized_cdf|cdf_length)$", None),
    (r"entropy_bottleneck\._matrix(\d)$", r"entropy_bottleneck.matrices.\1"),
    (r"entropy_bottleneck\._bias(\d)$", r"entropy_bottleneck.biases.\1"),
    (r"entropy_bottleneck\._factor(\d)$", r"entropy_bottleneck.factors.\1"),
]
ELIC_TABLE: list[tuple[str, str | None]] = [(r"g_a\.", ""), (r"", None)]


def is_released(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is a published one."""
    return all(part in checkpoint for part in PARTS)


def codec_state(checkpoint: Mapping[str, Any], codec: nn.Module) -> dict[str, Tensor]:
    """The state dict of the latent codec, with the derived tensors that it has already."""
    derived = {
        key: value
        for key, value in codec.state_dict().items()
        if key.startswith(("gaussian_conditional.", "entropy_bottleneck._"))
    }
    return {**derived, **remap(checkpoint["state_dict_codec"], KEY_TABLE)}


@torch.no_grad()
def merge(network: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Add low-rank changes to a network's weights; other tensors of the state replace its own.

    Args:
        network: changed in place.
        state: `NAME.lora_A.ADAPTER.weight` (r, …) and `NAME.lora_B.ADAPTER.weight` (…, r) of
            linear layers and convolutions, and tensors by the network's names.
        source: for messages.

    Raises:
        ValueError: the network has no such layer, or one of another shape.
    """
    own = network.state_dict()  # shares memory with the network
    for key, value in state.items():
        name, found, rest = key.partition(_A)
        if _B in key:
            continue
        target = f"{name}.weight" if found else key
        change = _product(value, state.get(f"{name}{_B}{rest}")) if found else value
        if target not in own or change is None or own[target].shape != change.shape:
            raise ValueError(f"weights from {source} do not fit: there is no place for {key}")
        if found:
            own[target].add_(change.to(own[target]), alpha=_ALPHA / value.shape[0])
        else:
            own[target].copy_(value)


def _product(a: Tensor, b: Tensor | None) -> Tensor | None:
    """B A of a linear layer or a convolution, in the shape of its weight."""
    if b is None:
        return None
    return (b.flatten(1).double() @ a.flatten(1).double()).view(len(b), *a.shape[1:])
