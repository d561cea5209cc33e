"""Fine-tuning: selection of the U-Net's weights, condition dropout, and support for DDP."""

import re

import torch
import torch.distributed as dist
from torch import Tensor, nn

from diffcodec.latent.low_rank import add_update

MODES = ("linear", "all", "lora", "low_rank")
_PROJECTION = re.compile(r"\.to_([qkv]|out\.\d+)$")  # diffusers' names in its attention


def prepare_unet(unet: nn.Module, mode: str, *, lora_rank: int = 16) -> None:
    """Freeze the weights that are not fine-tuned.

    Except for `low_rank`, the first convolution, which receives the codes, is always trained.

    Args:
        unet: the U-Net, changed in place; `lora` and `low_rank` add parameters to it.
        mode: `linear` (linear layers, Sec. 4.1: about 15% of the weights of the authors' model, but
            34.8% of Stable Diffusion 2.1 and 31.4% of 1.5), `all`, `lora` (low-rank updates of the
            linear layers in attention), or `low_rank` (low-rank updates of all linear layers and
            convolutions, which leave the U-Net itself as it is for other codecs).
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
    elif mode in ("lora", "low_rank"):
        updated = [
            module
            for name, module in unet.named_modules()
            if (mode == "low_rank" and isinstance(module, nn.Linear | nn.Conv2d))
            or (isinstance(module, nn.Linear) and _PROJECTION.search(name))
        ]
        for module in updated:
            add_update(module, lora_rank)
    if mode != "low_rank":
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
