"""Denoisers: D(x; sigma) -> x0_hat, for networks of any prediction type.

x = x0 + sigma * eps is the noisy image, in which the signal keeps its scale. This module handles
the prediction type, input scaling, noise conditioning and loss of a network. Samplers and guidance
only call D.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

PREDICTIONS = ("x0", "eps", "v")


class Denoiser(Protocol):
    """D(x; sigma, **condition) -> x0_hat in the shape of x; sigma is () or (B,)."""

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor: ...


class NetworkDenoiser(ABC):
    """A denoiser around a network with preconditioning (Karras et al. 2022, Eq. 7).

        D(x; sigma) = c_skip x + c_out F(c_in x, time)

    A subclass defines the scalings and the network's time.

    Args:
        network: F(c_in x, time, **condition), with an output in the shape of x.
    """

    def __init__(self, network: Callable[..., Tensor]) -> None:
        self.network = network

    @abstractmethod
    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c_skip, c_out and c_in at noise levels of any shape, each in that shape."""

    @abstractmethod
    def time(self, sigma: Tensor, x: Tensor) -> Tensor:
        """The network's time at noise level sigma, in float32 on the device of x."""

    def output(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        """F, the network's prediction at noise level sigma, () or (B,)."""
        _, _, c_in = self.scalings(sigma.double())
        out = self.network(like(x, c_in) * x, self.time(sigma.double(), x), **condition)
        return out.to(x.dtype)

    def x0_of(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """Convert the network's output at (x, sigma) to an estimate of x0."""
        c_skip, c_out, _ = self.scalings(sigma.double())
        return like(x, c_skip) * x + like(x, c_out) * output

    def target(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """The training target of F for x = x0 + sigma noise: (x0 - c_skip x) / c_out.

        The target is x0, the noise or v, by prediction type. It is computed as a sum of two terms,
        to avoid cancellation.
        """
        sigma = sigma.double()
        c_skip, c_out, _ = self.scalings(sigma)
        return like(x0, (1 - c_skip) / c_out) * x0 - like(x0, c_skip * sigma / c_out) * noise

    def loss(
        self,
        x0: Tensor,
        noise: Tensor,
        sigma: Tensor,
        *,
        error: Callable[[Tensor], Tensor] = torch.square,
        weight: Callable[[Tensor], Tensor] | None = None,
        **condition: Any,
    ) -> tuple[Tensor, Tensor]:
        """The loss of the network's prediction for x0 + sigma noise.

        Args:
            x0, noise: clean images and standard normal noise, (B, …).
            sigma: noise levels, (B,).
            error: function of the elementwise error of the network's output; its values are
                averaged over an image.
            weight: function from noise levels to loss weights, (B,); None weights all levels by 1.
            condition: keyword arguments of the network.

        Returns:
            The loss of each image, (B,), and the estimate of x0, (B, …).
        """
        x = x0 + like(x0, sigma) * noise
        output = self.output(x, sigma, **condition)
        loss = error(output - self.target(x0, noise, sigma)).flatten(1).mean(1)
        if weight is not None:
            loss = weight(sigma.double()).to(loss) * loss
        return loss, self.x0_of(output, x, sigma)

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        return self.x0_of(self.output(x, sigma, **condition), x, sigma)


class VPDenoiser(NetworkDenoiser):
    """A denoiser around a network of a variance-preserving process.

    The network is called as `network(x_t, time, **condition)`, with
    x_t = sqrt(abar) x = x / sqrt(1 + sigma^2) and the time of the noise level, () or (B,) in
    float32.

    Args:
        network: network that predicts x0, eps or v = sqrt(abar) eps - sqrt(1 - abar) x0.
        prediction: prediction type of the network: `x0`, `eps` or `v`.
        time_of: function from noise levels to the network's time, such as `schedule.TimeTable`.
        clip: whether to clamp x0_hat to [-1, 1].

    Raises:
        ValueError: the prediction type is unknown.
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
        super().__init__(network)
        self.prediction = prediction
        self.time_of = time_of
        self.clip = clip

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        variance = 1 + sigma**2  # 1 / abar
        c_in = variance.rsqrt()
        if self.prediction == "x0":
            return torch.zeros_like(sigma), torch.ones_like(sigma), c_in
        if self.prediction == "eps":
            return torch.ones_like(sigma), -sigma, c_in
        return 1 / variance, -(sigma * variance.rsqrt()), c_in

    def time(self, sigma: Tensor, x: Tensor) -> Tensor:
        return self.time_of(sigma).to(x.device, torch.float32)

    def x0_of(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        x0 = super().x0_of(output, x, sigma)
        return x0.clamp(-1, 1) if self.clip else x0

    def v_weight(self, sigma: Tensor) -> Tensor:
        """The weight that converts a squared error of F to one of v (Salimans & Ho 2022).

        At a given x, the error of v = sqrt(abar) eps - sqrt(1 - abar) x0 is the error of x0 divided
        by sqrt(1 - abar), and the error of x0 is c_out times that of F. The weight is 1 if F is v.
        """
        _, c_out, _ = self.scalings(sigma)
        return c_out**2 * (1 + sigma**2) / sigma**2


class LearnedVarianceDenoiser(VPDenoiser):
    """A denoiser around a network that also predicts the variance of DDPM's steps.

    `network(x_t, time)` returns twice the channels of x_t: its prediction, then the variance v in
    [-1, 1] (Nichol & Dhariwal 2021, Eq. 15). The denoiser returns x0_hat, then v, see
    `sampler.ancestral_step`.
    """

    def x0_of(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        prediction, v = output.chunk(2, dim=1)
        return torch.cat([super().x0_of(prediction, x, sigma), v], dim=1)


class EDMDenoiser(NetworkDenoiser):
    """A denoiser with EDM's preconditioning (Karras et al. 2022, Eq. 7 and Table 1).

        D(x; sigma) = c_skip x + c_out F(c_in x, c_noise),   c_noise = ln(sigma) / 4

    The inputs and training targets of F have unit variance at every noise level, so the loss needs
    no weight: lambda(sigma) c_out^2 = 1 (Eq. 8).

    Args:
        network: F(x, c_noise), with x (B, …) of unit variance and c_noise (B,) in float32.
        sigma_data: standard deviation of the data.
    """

    def __init__(self, network: Callable[..., Tensor], *, sigma_data: float = 0.5) -> None:
        super().__init__(network)
        self.sigma_data = sigma_data

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        total = sigma**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / total
        return c_skip, sigma * self.sigma_data / total.sqrt(), total.rsqrt()

    def time(self, sigma: Tensor, x: Tensor) -> Tensor:
        return (sigma.log() / 4).float().to(x.device).expand(len(x))  # c_noise


class ConsistencyDenoiser(EDMDenoiser):
    """A consistency function f(x, sigma), which maps any noise level to the end of the ODE.

    It uses EDM's preconditioning, shifted so that f(x, sigma_min) = x (Song et al. 2023, App. C).

    Args:
        network, sigma_data: see `EDMDenoiser`.
        sigma_min: noise level at the end of the ODE.
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

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        above, total = sigma - self.sigma_min, sigma**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / (above**2 + self.sigma_data**2)
        return c_skip, above * self.sigma_data / total.sqrt(), total.rsqrt()


def min_snr(sigma: Tensor, maximum: float) -> Tensor:
    """The min-SNR weight of the error of x0: 1 / sigma^2 up to a maximum (Hang et al. 2023)."""
    return (sigma**-2).clamp(max=maximum)


def like(x: Tensor, coefficient: Tensor) -> Tensor:
    """Reshape a coefficient, () or (B,), to multiply x (B, …), with the device and dtype of x."""
    return coefficient.to(x.device, x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
