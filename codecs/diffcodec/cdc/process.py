"""The diffusion processes of CDC's two released models, x0- and eps-prediction.

             x0                              eps
schedule     cosine, 8193 steps              linear, 20000 steps
loss         MSE of x0 * min(SNR, 5)         MAE of eps
x0 clamped   to [-1, 1] while sampling       never
time         t / N                           t / N; while sampling in S steps, step / S

Where paper and released code differ, this module follows the code, to be compatible with the
released weights:

- The paper has a squared error for both (Eq. 6); the code has the absolute error of eps.
- The paper weights the error of x0 by SNR; the code by min(SNR, 5).
- The paper does not mention that x0 is clamped.
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

MAX_SNR = 5.0  # upper limit of a noise level's weight (Hang et al. 2023)


@dataclass(frozen=True)
class Process:
    """A diffusion process and the parameterization of its network.

    Args:
        prediction: `x0` or `eps`.
        alphas_cumprod: abar, (N,) decreasing, in float32 as in the released models.
    """

    prediction: str
    alphas_cumprod: Tensor

    @property
    def num_timesteps(self) -> int:
        """N, the number of noise levels in training."""
        return len(self.alphas_cumprod)

    @cached_property
    def sigmas(self) -> Tensor:
        """Noise levels, (N,) increasing, float64."""
        return sigmas_of(self.alphas_cumprod)

    def has_schedule(self, alphas_cumprod: Tensor) -> bool:
        """Whether abar, (N,) on the CPU, is that of this process."""
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
        """The operating points: all combinations of the decoder's settings.

        Args:
            steps: number of decoding steps, one or several; None selects 17 (x0) or 200 (eps).
            gamma: standard deviation of the starting noise, one or several.
            lmbda: weight of the rate that the model was trained with.
            num_samples: number of decodings of a stream with different noise.
            progress: fraction of the steps after which decoding stops, one or several.

        Raises:
            ValueError: a value is out of range, or a point occurs twice.
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
        """The denoiser for training; the network's time is t / N."""
        times = torch.arange(self.num_timesteps) / self.num_timesteps
        return self._denoiser(network, self.sigmas, times, clip=False)

    def sampling(self, network: Callable[..., Tensor], num_steps: int) -> tuple[VPDenoiser, Tensor]:
        """The denoiser for sampling in S steps, and its S + 1 noise levels, decreasing to 0.

        Raises:
            ValueError: the number of steps is not in 1 to N.
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
        """Diffusion loss (Eq. 6) of the network's prediction at x0 + sigma_t eps.

        Args:
            network: network with t / N as its time.
            x0, eps: images in [-1, 1] and noise, (B, 3, H, W).
            t: timesteps, (B,) in 0 … N - 1.
            condition: further arguments of the network.

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
    """The released process of a parameterization; `num_timesteps` overrides its N.

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
