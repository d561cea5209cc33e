"""Schedules of CDC's training: the warm-up of lambda and the decay of the learning rate."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmed_up(
    lmbda: float, step: int, *, warmup_lmbda: float, warmup_steps: int, ramp_steps: int = 0
) -> float:
    """The weight of the rate at a step: `warmup_lmbda` for `warmup_steps`, `lmbda` in the end.

    With the full weight from the start, y collapses to zero and reconstructions are gray. The paper
    switches from one weight to the other in one step, at a learning rate of 5e-5. At higher
    learning rates that moves the means so far from y that likelihoods underflow and training
    stalls. Use `ramp_steps` to raise the weight geometrically instead.
    """
    share = (step - warmup_steps) / ramp_steps if ramp_steps else 1.0
    if step < warmup_steps:
        return warmup_lmbda
    return lmbda if share >= 1 else warmup_lmbda * (lmbda / warmup_lmbda) ** share


def floored_decay(optimizer: Optimizer, *, every: int, factor: float, floor: float) -> LambdaLR:
    """Multiply learning rates by `factor` every `every` steps, down to `floor` of the initial."""
    return LambdaLR(optimizer, lambda step: max(factor ** (step // every), floor))
