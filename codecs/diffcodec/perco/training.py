"""What only training needs: the loss in image space, dropped conditions, the optimizer."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn


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


def warmed_up_adamw(
    parameters: Sequence[nn.Parameter],
    *,
    lr: float,
    weight_decay: float,
    warmup_steps: int,
    num_steps: int | float | None,
) -> OptimizerLRScheduler:
    """AdamW with a linear warm-up (App. A).

    Args:
        parameters: what is trained.
        lr, weight_decay: of AdamW.
        warmup_steps: in which the learning rate grows.
        num_steps: after the warm-up the learning rate falls linearly to zero at this step; None or
            infinite keeps it.
    """
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if num_steps is None or num_steps == float("inf"):
            return 1.0
        return max(0.0, 1 - (step - warmup_steps) / max(1, num_steps - warmup_steps))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def several_processes() -> bool:
    """Whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
