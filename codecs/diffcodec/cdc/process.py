"""The two diffusion processes that CDC is trained with, as the released models differ.

             x0                              eps
schedule     cosine, 8193 steps              linear, 20000 steps
loss         MSE of x0 * min(SNR, 5)         MAE of eps
x0 clamped   to [-1, 1] while sampling       never
time         t / N                           t / N; while sampling in S steps, step / S

Where the paper says otherwise, the authors' released code is followed, with whose weights this must
agree: the paper has a squared error for both (Eq. 6), the code the absolute error of eps; the paper
weights x0's error by SNR, the code by SNR up to 5; the paper does not mention that x0 is clamped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from diffcodec.diffusion.denoiser import VPDenoiser, min_snr
from diffcodec.diffusion.schedule import (
    TimeTable,
    cosine_alphas_cumprod,
    linear_alphas_cumprod,
    sigmas_of,
    spaced_timesteps,
)
from diffcodec.points import Point, combine, listed

MAX_SNR = 5.0  # that a noise level's weight grows to (Hang et al. 2023)


@dataclass(frozen=True)
class Process:
    """A diffusion process and what the network predicts in it.

    Args:
        prediction: `x0` or `eps`.
        alphas_cumprod: abar, (N,) falling, float32: the released models' precision.
    """

    prediction: str
    alphas_cumprod: Tensor

    @property
    def num_timesteps(self) -> int:
        """N, how many noise levels the network is trained at."""
        return len(self.alphas_cumprod)

    @cached_property
    def sigmas(self) -> Tensor:
        """Noise levels, (N,) rising, float64."""
        return sigmas_of(self.alphas_cumprod)

    def has_schedule(self, alphas_cumprod: Tensor) -> bool:
        """Whether abar, (N,) on the CPU, is this process's."""
        return alphas_cumprod.shape == self.alphas_cumprod.shape and torch.allclose(
            sigmas_of(alphas_cumprod).log(), self.sigmas.log(), rtol=0, atol=0.02
        )

    def decoding_points(
        self,
        steps: int | Sequence[int] | None,
        gamma: float | Sequence[float],
        lmbda: float,
        *,
        num_samples: int = 1,
        progress: float | Sequence[float] = 1.0,
    ) -> tuple[Point, ...]:
        """The operating points: all combinations of what the decoder can do.

        Args:
            steps: one or several; None is 17 (x0) or 200 (eps).
            gamma: one or several.
            lmbda: the weight of the rate that the model was trained with.
            num_samples: decodings of a stream, with other starting noises.
            progress: shares of the steps after which decoding stops, one or several.

        Raises:
            ValueError: a number of steps that the process does not have, a negative gamma, a number
                of samples or a share out of range, or one point twice.
        """
        if steps is None:
            steps = 17 if self.prediction == "x0" else 200
        gammas = [float(g) for g in listed(gamma)]
        for count in listed(steps):
            if not 1 <= count <= self.num_timesteps:
                raise ValueError(f"steps must be in 1 to {self.num_timesteps}, got {count}")
        if not all(g >= 0 for g in gammas):
            raise ValueError(f"gamma must be at least 0, got {gammas}")
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1, got {num_samples}")
        shares = [float(share) for share in listed(progress)]
        if not all(0 <= share <= 1 for share in shares):
            raise ValueError(f"progress must be in [0, 1], got {shares}")
        decoding: dict[str, Any] = {
            "steps": steps,
            "gamma": gammas[0] if isinstance(gamma, int | float) else gammas,
        }
        if num_samples > 1:
            decoding["sample"] = list(range(num_samples))
        if shares != [1.0]:
            decoding["progress"] = shares[0] if isinstance(progress, int | float) else shares
        return combine(rate={"lmbda": lmbda}, decoding=decoding)

    def training_denoiser(self, network: Callable[..., Tensor]) -> VPDenoiser:
        """D around the network, told t / N."""
        times = torch.arange(self.num_timesteps) / self.num_timesteps
        return self._denoiser(network, self.sigmas, times, clip=False)

    def sampling(self, network: Callable[..., Tensor], num_steps: int) -> tuple[VPDenoiser, Tensor]:
        """D around the network as it is used in sampling, and its S + 1 noise levels, falling to 0.

        Raises:
            ValueError: more steps than the process has, or less than one.
        """
        t = spaced_timesteps(self.num_timesteps, num_steps)
        sigmas = self.sigmas[t]
        if self.prediction == "x0":
            times = t / self.num_timesteps
        else:
            times = torch.arange(num_steps) / num_steps
        denoiser = self._denoiser(network, sigmas, times, clip=self.prediction == "x0")
        return denoiser, torch.cat([sigmas.flip(0), sigmas.new_zeros(1)])

    def loss(
        self,
        network: Callable[..., Tensor],
        x0: Tensor,
        eps: Tensor,
        t: Tensor,
        **condition: Any,
    ) -> tuple[Tensor, Tensor]:
        """Diffusion loss (Eq. 6) of what the network predicts at x0 + sigma_t eps.

        Args:
            network: that is told t / N.
            x0, eps: images in [-1, 1] and noise, (B, 3, H, W).
            t: timesteps, (B,) in 0 … N - 1.
            condition: handed to the network.

        Returns:
            The loss of each image, (B,), and the estimate of x0, (B, 3, H, W).
        """
        denoiser, sigma = self.training_denoiser(network), self.sigmas[t.cpu()]
        if self.prediction == "eps":
            return denoiser.loss(x0, eps, sigma, error=torch.abs, **condition)
        weight = partial(min_snr, maximum=MAX_SNR)
        return denoiser.loss(x0, eps, sigma, weight=weight, **condition)

    def _denoiser(
        self, network: Callable[..., Tensor], sigmas: Tensor, times: Tensor, *, clip: bool
    ) -> VPDenoiser:
        table = TimeTable(sigmas, times)
        return VPDenoiser(network, prediction=self.prediction, time_of=table, clip=clip)


def build_process(prediction: str, num_timesteps: int | None = None) -> Process:
    """The released process of a parameterization, with N of its own if given.

    Raises:
        ValueError: the parameterization is neither `x0` nor `eps`.
    """
    if prediction == "x0":
        alphas_cumprod = cosine_alphas_cumprod(num_timesteps or 8193)
    elif prediction == "eps":
        alphas_cumprod = linear_alphas_cumprod(num_timesteps or 20000)
    else:
        raise ValueError(f"unknown prediction {prediction!r}, choose from ('x0', 'eps')")
    return Process(prediction, alphas_cumprod.float())
