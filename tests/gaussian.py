"""Data for which the best denoiser is known: N(mean, std^2) in every pixel."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Gaussian:
    """x0 ~ N(mean, std^2), and what a perfect network of each parameterization predicts."""

    mean: float = 0.3
    std: float = 0.5

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x0 + sigma eps = x]."""
        return self.mean + self.std**2 / (self.std**2 + sigma**2) * (x - self.mean)

    def network(self, prediction: str):
        """A network of the variance-preserving process whose time is log sigma."""

        def predict(x_t: Tensor, time: Tensor) -> Tensor:
            sigma = time.double().exp().reshape(-1, *(1,) * (x_t.ndim - 1))
            abar = 1 / (1 + sigma**2)
            x0 = self.denoise(x_t * (1 + sigma**2).sqrt(), sigma)
            eps = (x_t - abar.sqrt() * x0) / (1 - abar).sqrt()
            v = abar.sqrt() * eps - (1 - abar).sqrt() * x0
            return {"x0": x0, "eps": eps, "v": v}[prediction].to(x_t.dtype)

        return predict

    def flow(self, x: Tensor, sigma: float, sigma_next: float) -> Tensor:
        """Exact solution of dx/dsigma = (x - D(x; sigma)) / sigma."""
        ratio = (self.std**2 + sigma_next**2) / (self.std**2 + sigma**2)
        return self.mean + ratio**0.5 * (x - self.mean)


def log_sigma(sigma: Tensor) -> Tensor:
    """The `time_of` that `Gaussian.network` expects."""
    return torch.log(sigma)
