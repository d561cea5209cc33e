"""What only training needs: the perceptual loss, the warm-up of lambda, the learning rate."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmed_up(lmbda: float, step: int, *, warmup_lmbda: float, warmup_steps: int) -> float:
    """The rate's weight: `warmup_lmbda` for the first `warmup_steps`, then `lmbda`.

    From the start with the full weight, y collapses to nothing and the pictures to grey.
    """
    return warmup_lmbda if step < warmup_steps else lmbda


def floored_decay(optimizer: Optimizer, *, every: int, factor: float, floor: float) -> LambdaLR:
    """Multiply the learning rates by `factor` every so many steps, down to a share `floor`."""
    return LambdaLR(optimizer, lambda step: max(factor ** (step // every), floor))
