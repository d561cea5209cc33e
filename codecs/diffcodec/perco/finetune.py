"""Fine-tuning: selection of the U-Net's weights, condition dropout, and support for DDP."""

import re

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parametrize

MODES = ("linear", "all", "lora")
_PROJECTION = re.compile(r"\.to_([qkv]|out\.\d+)$")  # diffusers' names in its attention


class LowRank(nn.Module):
    """Parametrization W -> W + B A of a linear layer's weight (Hu et al. 2022); B starts at 0."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.randn(rank, weight.shape[1]) / rank)
        self.B = nn.Parameter(torch.zeros(weight.shape[0], rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.B @ self.A


def prepare_unet(unet: nn.Module, mode: str, *, lora_rank: int = 16) -> None:
    """Freeze the weights that are not fine-tuned.

    The first convolution, which receives the codes, is always trained.

    Args:
        unet: the U-Net, changed in place; `lora` adds parameters to it.
        mode: `linear` (linear layers, Sec. 4.1: about 15% of the weights of the authors' model, but
            34.8% of Stable Diffusion 2.1 and 31.4% of 1.5), `all`, or `lora` (low-rank updates of
            the linear layers in attention).
        lora_rank: rank of the updates.

    Raises:
        ValueError: the mode is unknown, or the rank is below 1.
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
        condition: conditions, (B, …).
        null: replacement, (B, …) or (1, …).
        probability: probability of replacement for each image.
        always: mask of images whose condition is always replaced, (B,) bool.
    """
    dropped = torch.rand(len(condition), device=condition.device) < probability
    if always is not None:
        dropped = dropped | always
    return torch.where(dropped.reshape(-1, *(1,) * (condition.ndim - 1)), null, condition)


def spread_over(module: nn.Module) -> Tensor:
    """A zero that depends on all trained parameters.

    DDP waits for the gradient of every parameter, including those of rates that a step does not
    use.
    """
    return torch.stack([0 * p.sum() for p in module.parameters() if p.requires_grad]).sum()


def several_processes() -> bool:
    """Whether this process is one of several that train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
