"""Schedules of CDC's training: the warm-up of lambda and the decay of the learning rate."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmed_up(
    lmbda: float, step: int, *, warmup_lmbda: float, warmup_steps: int, ramp_steps: int = 0
) -> float:
    """The rate's weight: `warmup_lmbda` for the first `warmup_steps`, in the end `lmbda`.

    From the start with the full weight, y collapses to nothing and the pictures to grey. The paper
    jumps from one to the other, at a learning rate of 5e-5. At higher ones the jump throws the
    means so far off y that likelihoods underflow and training stands still: let the weight rise
    geometrically over `ramp_steps`.
    """
    share = (step - warmup_steps) / ramp_steps if ramp_steps else 1.0
    if step < warmup_steps:
        return warmup_lmbda
    return lmbda if share >= 1 else warmup_lmbda * (lmbda / warmup_lmbda) ** share


def floored_decay(optimizer: Optimizer, *, every: int, factor: float, floor: float) -> LambdaLR:
    """Multiply the learning rates by `factor` every so many steps, down to a share `floor`."""
    return LambdaLR(optimizer, lambda step: max(factor ** (step // every), floor))
