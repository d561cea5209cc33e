"""KID: the squared maximum mean discrepancy between two sets of Inception features."""

from typing import TYPE_CHECKING

from diffcodec.metrics.fid import build_inception
from diffcodec.metrics.metric import SetMetric

if TYPE_CHECKING:
    from torch import Tensor

SUBSETS = 100
SUBSET_SIZE = 1000


def kernel_distance(real: "Tensor", fake: "Tensor") -> float:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, in float64.

    With more than 1000 samples in a set, the result is the mean over 100 random subsets of up to
    1000, drawn with a fixed seed (Binkowski et al., 2018). Otherwise all samples are used at once.

    Raises:
        ValueError: a set has fewer than two samples.
    """
    import torch

    count = min(len(real), len(fake))
    if count < 2:
        raise ValueError(f"need at least two samples a side, got {len(real)} and {len(fake)}")
    real, fake = real.double(), fake.double()
    if max(len(real), len(fake)) <= SUBSET_SIZE:
        return float(_unbiased(real, fake))
    size = min(SUBSET_SIZE, count)
    generator = torch.Generator().manual_seed(0)
    scores = []
    for _ in range(SUBSETS):
        a = torch.randperm(len(real), generator=generator)[:size]
        b = torch.randperm(len(fake), generator=generator)[:size]
        scores.append(_unbiased(real[a], fake[b]))
    return float(torch.stack(scores).mean())


def _unbiased(real: "Tensor", fake: "Tensor") -> "Tensor":
    from torchmetrics.image.kid import poly_mmd

    distance: Tensor = poly_mmd(real, fake, degree=3, gamma=None, coef=1.0)
    return distance


METRIC = SetMetric(
    "kid",
    "KID",
    kind="perception",
    better="lower",
    order=11,
    needs="the Inception network of FID",
    embedding="inception",
    build=build_inception,
    distance=kernel_distance,
)
