"""Optimizers and learning-rate schedules for hyperprior codecs and diffusion models."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler


def hyperprior_optimizer(
    module: nn.Module,
    *,
    lr: float,
    aux_lr: float,
    num_steps: float,
    schedule: Callable[[Optimizer], LRScheduler] | None = None,
) -> dict[str, Any]:
    """Adam over two parameter groups, for Lightning's `configure_optimizers`.

    The rate-distortion loss and the auxiliary loss update different parameters, so one optimizer is
    enough. With two optimizers, Lightning would count every step twice.

    Args:
        module: module to train; parameters named `….quantiles` are the quantiles of factorized
            priors.
        lr, aux_lr: learning rates of the network and of the quantiles.
        num_steps: number of optimizer steps of the run, possibly infinite.
        schedule: function from the optimizer to a learning-rate scheduler, which is stepped every
            step; null selects a cosine to zero over `num_steps`, or a constant rate if infinite.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    quantiles = [p for name, p in named if name.endswith("quantiles")]
    network = [p for name, p in named if not name.endswith("quantiles")]
    optimizer = Adam([{"params": network, "lr": lr}, {"params": quantiles, "lr": aux_lr}])
    scheduler = (schedule or annealed(num_steps))(optimizer)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def clip_network(optimizer: Optimizer, max_norm: float | None) -> None:
    """Clip the gradient norm of the first parameter group only.

    The auxiliary loss is a sum over channels and would dominate a joint norm.
    """
    if max_norm:
        parameters: Iterable[Any] = optimizer.param_groups[0]["params"]
        nn.utils.clip_grad_norm_(parameters, max_norm)


def annealed(num_steps: float) -> Callable[[Optimizer], LRScheduler]:
    """Cosine annealing to zero over `num_steps`; constant learning rates if infinite."""
    if math.isinf(num_steps):
        return lambda optimizer: LambdaLR(optimizer, lambda step: 1.0)
    return lambda optimizer: CosineAnnealingLR(optimizer, T_max=int(num_steps))


def warmed_up_adamw(
    parameters: Sequence[nn.Parameter] | Sequence[dict[str, Any]],
    *,
    lr: float,
    weight_decay: float,
    warmup_steps: int,
    num_steps: int | float | None,
) -> OptimizerLRScheduler:
    """AdamW with a linear warm-up, for Lightning's `configure_optimizers` (PerCo, App. A).

    Args:
        parameters: parameters, or parameter groups of the optimizer.
        lr, weight_decay: learning rate and weight decay of AdamW.
        warmup_steps: number of steps of linear warm-up.
        num_steps: step at which the linear decay after the warm-up reaches zero; None or infinite
            keeps the learning rate constant.
    """
    optimizer = AdamW(parameters, lr=lr, weight_decay=weight_decay)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if num_steps is None or num_steps == float("inf"):
            return 1.0
        return max(0.0, 1 - (step - warmup_steps) / max(1, num_steps - warmup_steps))

    scheduler = LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
