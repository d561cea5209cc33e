"""Denoisers: D(x; sigma) -> x0_hat, whatever the network inside was trained to predict.

x = x0 + sigma * eps is the noisy image with the signal at its own scale. What a network predicts,
how its input is scaled, how it is told the noise level and what its error is, is known here and
nowhere else: samplers and guidance only see D.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

PREDICTIONS = ("x0", "eps", "v")


class Denoiser(Protocol):
    """D(x; sigma, **condition) -> x0_hat, of the shape of x; sigma is () or (B,)."""

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor: ...


class NetworkDenoiser(ABC):
    """A denoiser around a network whose input and output are scaled by the noise level.

        D(x; sigma) = c_skip x + c_out F(c_in x, time)

    as in Karras et al. (2022), Eq. 7: a parameterization is its scalings and what the network is
    told as its time.

    Args:
        network: F(c_in x, time, **condition), of the shape of x.
    """

    def __init__(self, network: Callable[..., Tensor]) -> None:
        self.network = network

    @abstractmethod
    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c_skip, c_out and c_in at noise levels of any shape, each of that shape."""

    @abstractmethod
    def time(self, sigma: Tensor, x: Tensor) -> Tensor:
        """What the network is told of the noise level of x, in float32 on its device."""

    def output(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        """F: what the network itself predicts at noise level sigma, () or (B,)."""
        _, _, c_in = self.scalings(sigma.double())
        out = self.network(like(x, c_in) * x, self.time(sigma.double(), x), **condition)
        return out.to(x.dtype)

    def x0_of(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """The estimate of x0 that the network's output at (x, sigma) means."""
        c_skip, c_out, _ = self.scalings(sigma.double())
        return like(x, c_skip) * x + like(x, c_out) * output

    def target(self, x0: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """What F should predict of x0 + sigma noise: (x0 - c_skip x) / c_out.

        As the sum of its two parts, in which nothing cancels: it is x0, the noise or v where that
        is what the network predicts.
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
        """What the network's prediction of x0 + sigma noise is off by.

        Args:
            x0, noise: clean images and standard normal noise, (B, …).
            sigma: noise levels, (B,).
            error: of each value of the network's output, averaged over an image.
            weight: noise levels -> the weights of their errors, (B,); None is 1 at all of them.
            condition: handed to the network.

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
        """What makes a squared error of F one of v (Salimans & Ho 2022); 1 where F is v.

        v = sqrt(abar) eps - sqrt(1 - abar) x0 at a given x: its error is that of x0 divided by
        sqrt(1 - abar), and that of x0 is c_out times F's.
        """
        _, c_out, _ = self.scalings(sigma)
        return c_out**2 * (1 + sigma**2) / sigma**2


class LearnedVarianceDenoiser(VPDenoiser):
    """A denoiser of a network that also says how much noise a step of DDPM adds.

    `network(x_t, time)` gives twice the channels of x_t: its prediction, then v in [-1, 1], and so
    does the denoiser: x0_hat, then v (Nichol & Dhariwal 2021, Eq. 15; `sampler.ancestral_step`).
    """

    def x0_of(self, output: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        prediction, v = output.chunk(2, dim=1)
        return torch.cat([super().x0_of(prediction, x, sigma), v], dim=1)


class EDMDenoiser(NetworkDenoiser):
    """A denoiser with EDM's preconditioning (Karras et al. 2022, Eq. 7 and Table 1).

        D(x; sigma) = c_skip x + c_out F(c_in x, c_noise),   c_noise = ln(sigma) / 4

    F sees inputs and is trained to make outputs of unit variance at every noise level, so that the
    loss needs no weight: lambda(sigma) c_out^2 = 1 (Eq. 8).

    Args:
        network: F(x, c_noise), x of unit variance (B, …), c_noise (B,) in float32.
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

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        above, total = sigma - self.sigma_min, sigma**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / (above**2 + self.sigma_data**2)
        return c_skip, above * self.sigma_data / total.sqrt(), total.rsqrt()


def min_snr(sigma: Tensor, maximum: float) -> Tensor:
    """SNR = 1 / sigma^2 up to a maximum: the weight of an error of x0 (Hang et al. 2023)."""
    return (sigma**-2).clamp(max=maximum)


def like(x: Tensor, coefficient: Tensor) -> Tensor:
    """A coefficient () or (B,) -> one that multiplies x (B, …), on its device and of its dtype."""
    return coefficient.to(x.device, x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
