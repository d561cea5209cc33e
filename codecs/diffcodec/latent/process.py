"""The diffusion process in latent space: a grid of timesteps, a denoiser and the v loss."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffcodec.diffusion.denoiser import VPDenoiser, like
from diffcodec.diffusion.schedule import TimeTable, sigmas_of, spaced_timesteps

# A schedule that ends in pure noise would have an infinite sigma.
MIN_ALPHAS_CUMPROD = 1e-8
SPACINGS = ("grid", "leading")


class LatentProcess:
    """A variance-preserving process on a grid of timesteps.

    Args:
        alphas_cumprod: abar of all N timesteps, (N,) falling.
        prediction: prediction type of the network: `x0`, `eps` or `v`. The loss is always that of
            v.
        grid_steps: number of timesteps that are trained and sampled, evenly spaced up to the last.

    Raises:
        ValueError: the grid has more timesteps than the process, or fewer than one.
    """

    def __init__(self, alphas_cumprod: Tensor, *, prediction: str, grid_steps: int) -> None:
        num_timesteps = len(alphas_cumprod)
        if not 1 <= grid_steps <= num_timesteps:
            raise ValueError(f"grid_steps must be in 1 to {num_timesteps}, got {grid_steps}")
        self.prediction = prediction
        self.num_timesteps = num_timesteps
        self.timesteps = torch.arange(1, grid_steps + 1) * num_timesteps // grid_steps - 1
        abar = alphas_cumprod.detach().cpu().double().clamp(min=MIN_ALPHAS_CUMPROD)
        self.sigmas = sigmas_of(abar[self.timesteps])

    def denoiser(self, network: Callable[..., Tensor]) -> VPDenoiser:
        """D(x; sigma) around a network that takes the timestep."""
        time_of = TimeTable(self.sigmas, self.timesteps)
        return VPDenoiser(network, prediction=self.prediction, time_of=time_of)

    def sampling_sigmas(self, num_steps: int, spacing: str = "grid") -> Tensor:
        """Falling noise levels for sampling, (S + 1,).

        Args:
            num_steps: number of steps S.
            spacing: `grid`: evenly over the grid, from the level of its last timestep to 0;
                `leading`: timesteps 1, 1 + N // S, … of N, then the level of timestep 0, as in
                diffusers' scheduler of Stable Diffusion 2.1.

        Raises:
            ValueError: the grid has too few timesteps, or the spacing is unknown.
        """
        if spacing not in SPACINGS:
            raise ValueError(f"unknown spacing {spacing!r}, choose from {', '.join(SPACINGS)}")
        if spacing == "leading":
            if not 1 <= num_steps <= self.num_timesteps // 2:
                most = self.num_timesteps // 2
                raise ValueError(
                    f"the number of steps must be in 1 to {most} with spacing=leading, "
                    f"got {num_steps}"
                )
            wanted = torch.arange(num_steps) * (self.num_timesteps // num_steps) + 1
            wanted = torch.cat([wanted.flip(0), wanted.new_zeros(1)])
            if len(self.timesteps) < self.num_timesteps:
                raise ValueError(
                    f"spacing=leading needs grid_steps={self.num_timesteps}, got "
                    f"{len(self.timesteps)}"
                )
            return self.sigmas[wanted]
        sigmas = self.sigmas[spaced_timesteps(len(self.sigmas), num_steps)]
        return torch.cat([sigmas.flip(0), sigmas.new_zeros(1)])

    def draw_sigmas(self, count: int) -> Tensor:
        """Random noise levels of the grid, (count,)."""
        return self.sigmas[torch.randint(len(self.sigmas), (count,))]

    def v_loss(
        self,
        network: Callable[..., Tensor],
        x0: Tensor,
        noise: Tensor,
        sigma: Tensor,
        **condition: Any,
    ) -> tuple[Tensor, Tensor]:
        """Squared error of v, for any prediction type of the network.

        Args:
            network: function of x_t and the timestep.
            x0, noise: latents and standard normal noise, (B, …).
            sigma: noise levels of the grid, (B,).
            condition: keyword arguments of the network.

        Returns:
            The loss of each latent, (B,), and the estimate of x0, (B, …).
        """
        denoiser = self.denoiser(network)
        return denoiser.loss(x0, noise, sigma, weight=denoiser.v_weight, **condition)


def pure_noise(noise: Tensor, sigma: Tensor) -> Tensor:
    """Unit noise (B, …) -> start of sampling at noise level sigma, ().

    Converts x_T ~ N(0, I) of the variance-preserving process to the scale of x.
    """
    return like(noise, (1 + sigma.double() ** 2).sqrt()) * noise
