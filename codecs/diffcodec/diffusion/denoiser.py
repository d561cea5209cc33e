"""Denoisers: D(x; sigma) -> x0_hat, whatever the network inside was trained to predict.

x = x0 + sigma * eps is the noisy image with the signal at its own scale. What a network predicts,
how its input is scaled and how it is told the noise level is known here and nowhere else: samplers
and guidance only see D.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

PREDICTIONS = ("x0", "eps", "v")


class Denoiser(Protocol):
    """D(x; sigma, **condition) -> x0_hat, of the shape of x; sigma is () or (B,)."""

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor: ...


class VPDenoiser:
    """A denoiser around a network of a variance-preserving process.

    The network sees x_t = sqrt(abar) x = x / sqrt(1 + sigma^2) and the time of that noise level:
    `network(x_t, time, **condition)` with time () or (B,) in float32.

    Args:
        network: predicts x0, eps or v = sqrt(abar) eps - sqrt(1 - abar) x0.
        prediction: which of them.
        time_of: noise level -> what the network is told, as `schedule.TimeTable`.
        clip: clamp x0_hat to [-1, 1].

    Raises:
        ValueError: an unknown prediction.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        *,
        prediction: str,
        time_of: Callable[[Tensor], Tensor],
        clip: bool = False,
    ) -> None:
        if prediction not in PREDICTIONS:
            raise ValueError(f"unknown prediction {prediction!r}, choose from {PREDICTIONS}")
        self.network = network
        self.prediction = prediction
        self.time_of = time_of
        self.clip = clip

    def output(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        """What the network itself predicts at noise level sigma, () or (B,)."""
        c_in = like(x, (1 + sigma.double() ** 2).rsqrt())
        time = self.time_of(sigma).to(x.device, torch.float32)
        return self.network(c_in * x, time, **condition)

    def x0_of(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """The estimate of x0 that the network's output at (x, sigma) means."""
        if self.prediction == "x0":
            x0 = output
        elif self.prediction == "eps":
            x0 = x - like(x, sigma) * output
        else:
            variance = 1 + sigma.double() ** 2
            x0 = like(x, 1 / variance) * x - like(x, sigma * variance.rsqrt()) * output
        return x0.clamp(-1, 1) if self.clip else x0

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        return self.x0_of(self.output(x, sigma, **condition), x, sigma)


class EDMDenoiser:
    """A denoiser with EDM's preconditioning (Karras et al. 2022, Eq. 7 and Table 1).

        D(x; sigma) = c_skip x + c_out F(c_in x, c_noise),   c_noise = ln(sigma) / 4

    F sees inputs and is trained to make outputs of unit variance at every noise level.

    Args:
        network: F(x, c_noise), x of unit variance (B, …), c_noise (B,) in float32.
        sigma_data: standard deviation of the data.
    """

    def __init__(self, network: Callable[..., Tensor], *, sigma_data: float = 0.5) -> None:
        self.network = network
        self.sigma_data = sigma_data

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """c_skip and c_out, of the shape of sigma."""
        total = sigma**2 + self.sigma_data**2
        return self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt()

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        sigma = sigma.double().to(x.device)
        c_skip, c_out = self.scalings(sigma)
        c_in = (sigma**2 + self.sigma_data**2).rsqrt()
        c_noise = (sigma.log() / 4).float().expand(len(x))
        output = self.network(like(x, c_in) * x, c_noise, **condition)
        return like(x, c_skip) * x + like(x, c_out) * output.to(x.dtype)


class ConsistencyDenoiser(EDMDenoiser):
    """A consistency function f(x, sigma), from any noise level to the ODE's end in one evaluation.

    EDM's preconditioning, shifted so that f(x, sigma_min) = x (Song et al. 2023, App. C).

    Args:
        network, sigma_data: as of `EDMDenoiser`.
        sigma_min: where the ODE ends.
    """

    def __init__(
        self,
        network: Callable[..., Tensor],
        *,
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
    ) -> None:
        super().__init__(network, sigma_data=sigma_data)
        self.sigma_min = sigma_min

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        above, total = sigma - self.sigma_min, sigma**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / (above**2 + self.sigma_data**2)
        return c_skip, above * self.sigma_data / total.sqrt()


def like(x: Tensor, coefficient: Tensor) -> Tensor:
    """A coefficient () or (B,) -> one that multiplies x (B, …), on its device and of its dtype."""
    return coefficient.to(x.device, x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
