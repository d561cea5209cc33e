"""Loading of the published checkpoints, whose LoRA weights are merged into the networks.

A checkpoint contains `state_dict_codec`, `state_dict_vae` and `state_dict_unet`. The last two
contain only trained weights: the LoRA updates W + (alpha / r) B A of the layers (Hu et al. 2022),
under peft's names, and the U-Net's first convolution. ELIC's weights are in a separate file.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffcodec.weights.loading import remap

PARTS = ("state_dict_codec", "state_dict_vae", "state_dict_unet")
_ALPHA = 8  # peft's default, which the authors use
_A, _B = ".lora_A.", ".lora_B."

# From CompressAI 1.2.6's names to the current ones. Entropy tables are dropped and rebuilt.
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
    """The latent codec's state dict in a checkpoint, with the codec's own derived tensors."""
    derived = {
        key: value
        for key, value in codec.state_dict().items()
        if key.startswith(("gaussian_conditional.", "entropy_bottleneck._"))
    }
    return {**derived, **remap(checkpoint["state_dict_codec"], KEY_TABLE)}


@torch.no_grad()
def merge(network: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Add LoRA updates to a network's weights, and copy all other tensors of the state.

    Args:
        network: network that is modified in place.
        state: `NAME.lora_A.ADAPTER.weight` (r, …) and `NAME.lora_B.ADAPTER.weight` (…, r) of
            linear layers and convolutions, and other tensors under the network's names.
        source: source of the weights, for error messages.

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
            raise ValueError(f"weights from {source} do not fit: unexpected tensor {key}")
        if found:
            own[target].add_(change.to(own[target]), alpha=_ALPHA / value.shape[0])
        else:
            own[target].copy_(value)


def _product(a: Tensor, b: Tensor | None) -> Tensor | None:
    """The product B A for a linear layer or a convolution, in the shape of its weight."""
    if b is None:
        return None
    return (b.flatten(1).double() @ a.flatten(1).double()).view(len(b), *a.shape[1:])
