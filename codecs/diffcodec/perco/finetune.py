"""Fine-tuning: which of the U-Net's weights, dropped conditions, and what many processes need."""

import re

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parametrize

MODES = ("linear", "all", "lora")
_PROJECTION = re.compile(r"\.to_([qkv]|out\.\d+)$")  # diffusers' names in its attention


class LowRank(nn.Module):
    """W -> W + B A (Hu et al. 2022), a parametrization of a linear layer's weight; 0 at first."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.randn(rank, weight.shape[1]) / rank)
        self.B = nn.Parameter(torch.zeros(weight.shape[0], rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.B @ self.A


def prepare_unet(unet: nn.Module, mode: str, *, lora_rank: int = 16) -> None:
    """Freeze what is not fine-tuned.

    The first convolution, which sees the codes, is always trained.

    Args:
        unet: changed in place; `lora` adds parameters to it.
        mode: `linear` (linear layers, Sec. 4.1: some 15% of the weights of the authors' model, but
            34.8% of Stable Diffusion 2.1's and 31.4% of 1.5's), `all`, or
            `lora` (low-rank changes of the attention's linear layers).
        lora_rank: of those.

    Raises:
        ValueError: another mode, or a rank below 1.
    """
    if mode not in MODES:
        raise ValueError(f"unknown finetune {mode!r}, choose from {', '.join(MODES)}")
    if lora_rank < 1:
        raise ValueError(f"lora_rank must be at least 1, got {lora_rank}")
    unet.requires_grad_(mode == "all")
    if mode == "linear":
        for module in unet.modules():
            if isinstance(module, nn.Linear):
                module.requires_grad_(True)
    elif mode == "lora":
        attention = [
            module
            for name, module in unet.named_modules()
            if isinstance(module, nn.Linear) and _PROJECTION.search(name)
        ]
        for module in attention:
            parametrize.register_parametrization(
                module, "weight", LowRank(module.weight, lora_rank)
            )
    unet.conv_in.requires_grad_(True)


def drop(
    condition: Tensor, null: Tensor, probability: float, always: Tensor | None = None
) -> Tensor:
    """Replace the condition of random images.

    Args:
        condition: (B, …).
        null: what it is replaced by, (B, …) or (1, …).
        probability: for each image.
        always: (B,), where it is replaced in any case.
    """
    dropped = torch.rand(len(condition), device=condition.device) < probability
    if always is not None:
        dropped = dropped | always
    return torch.where(dropped.reshape(-1, *(1,) * (condition.ndim - 1)), null, condition)


def spread_over(module: nn.Module) -> Tensor:
    """A zero that depends on all trained parameters.

    Under DDP every process waits for every gradient, also of the rates that a step does not use.
    """
    return torch.stack([0 * p.sum() for p in module.parameters() if p.requires_grad]).sum()


def several_processes() -> bool:
    """Whether this process is one of several that train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
