"""Low-rank updates of a network's weights, W + B A (Hu et al. 2022), beside unchanged weights.

A state dict has the updates under the names of torch's parametrizations: `….original` for W, and
`….0.A` and `….0.B`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_ORIGINAL = ".parametrizations.weight.original"
_UPDATE = ".parametrizations.weight.0."


class LowRank(nn.Module):
    """Parametrization W -> W + B A of a layer's weight; B starts at 0.

    Args:
        weight: the weight, (out, in) or (out, in, height, width).
        rank: rank of the update, at most that of the weight.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        fan_out, fan_in = weight.flatten(1).shape
        rank = min(rank, fan_out, fan_in)
        self.A = nn.Parameter(torch.randn(rank, fan_in) / rank)
        self.B = nn.Parameter(torch.zeros(fan_out, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.B @ self.A).view(weight.shape).to(weight.dtype)


def add_update(module: nn.Module, rank: int) -> None:
    """Give a linear layer or convolution an update that starts at 0."""
    weight: Any = module.weight
    parametrize.register_parametrization(module, "weight", LowRank(weight, rank))


def has_updates(state: Mapping[str, Any]) -> bool:
    """Whether a state dict has low-rank updates."""
    return any(_UPDATE in name for name in state)


def split(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split a state dict into the unchanged weights, under plain names, and the updates."""
    plain = {k.replace(_ORIGINAL, ".weight"): v for k, v in state.items() if _UPDATE not in k}
    return plain, {k: v for k, v in state.items() if _UPDATE in k}


def merge(state: Mapping[str, Tensor], updates: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add updates to the weights of a state dict with plain names."""
    merged = dict(state)
    for name, a in updates.items():
        stem, _, factor = name.partition(_UPDATE)
        if factor == "A":
            weight, b = state[f"{stem}.weight"], updates[f"{stem}{_UPDATE}B"]
            update = (b.float() @ a.float()).view(weight.shape)
            merged[f"{stem}.weight"] = (weight.float() + update).to(weight.dtype)
    return merged


def fit(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Approximate the weights of a network by updates of another one's, by truncated SVD.

    Args:
        state: state dict of a network with updates; its weights stay.
        target: weights to approximate, under plain names. Biases and normalizations are ignored.

    Returns:
        `state` with updates of the same ranks.
    """
    fitted = dict(state)
    for name, a in state.items():
        stem, _, factor = name.partition(_UPDATE)
        if factor != "A":
            continue
        difference = target[f"{stem}.weight"].float() - state[f"{stem}{_ORIGINAL}"].float()
        u, s, vh = torch.linalg.svd(difference.flatten(1), full_matrices=False)
        root = s[: len(a)].sqrt()
        fitted[name] = root[:, None] * vh[: len(a)]
        fitted[f"{stem}{_UPDATE}B"] = u[:, : len(a)] * root
    return fitted
