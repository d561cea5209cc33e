"""FID: the Fréchet distance between Gaussians fitted to two sets of Inception features."""

from typing import TYPE_CHECKING

from diffcodec.metrics.metric import SetMetric

if TYPE_CHECKING:
    from torch import Tensor, nn


def frechet_distance(real: "Tensor", fake: "Tensor") -> float:
    """Fréchet distance between Gaussians fitted to two feature sets (N, D) and (M, D).

    |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) (Heusel et al., 2017), in float64. With
    S_i = A_i^T A_i, the trace of the square root is the sum of the singular values of A_1 A_2^T.
    This avoids the root of a matrix that is singular for fewer samples than features, where
    eigenvalues that should be zero would add noise of the order of 1e-5.

    Raises:
        ValueError: a set has fewer than two samples.
    """
    import torch

    if min(len(real), len(fake)) < 2:
        raise ValueError(f"need at least two samples a side, got {len(real)} and {len(fake)}")
    mean_1, root_1 = _moments(real)
    mean_2, root_2 = _moments(fake)
    cross = torch.linalg.svdvals(root_1 @ root_2.T).sum()
    distance = (mean_1 - mean_2).square().sum() + root_1.square().sum() + root_2.square().sum()
    return float(distance - 2 * cross)


def _moments(features: "Tensor") -> "tuple[Tensor, Tensor]":
    """The mean of features, and a matrix A such that A^T A is their covariance."""
    import torch

    features = features.double()
    mean = features.mean(dim=0)
    root = (features - mean) / (len(features) - 1) ** 0.5
    if len(root) > root.shape[1]:
        root = torch.linalg.qr(root, mode="r").R
    return mean, root


def build_inception(weights: str | None) -> "nn.Module":
    """Build `networks.features.InceptionFeatures`, the network of FID and KID."""
    from diffcodec.metrics.networks.features import InceptionFeatures

    return InceptionFeatures(weights)


METRIC = SetMetric(
    "fid",
    "FID",
    kind="perception",
    better="lower",
    order=10,
    headline=True,
    needs="the Inception network of FID",
    embedding="inception",
    build=build_inception,
    distance=frechet_distance,
)
