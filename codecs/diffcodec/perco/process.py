"""The diffusion process of the latents: a grid of timesteps, a denoiser, the v-prediction loss."""

from collections.abc import Callable

import torch
from torch import Tensor

from diffcodec.diffusion.denoiser import VPDenoiser, like
from diffcodec.diffusion.schedule import TimeTable, sigmas_of, spaced_timesteps

GRID_STEPS = 50  # timesteps that the model is fine-tuned on (App. A)
# A schedule that ends in pure noise would have an infinite sigma.
MIN_ALPHAS_CUMPROD = 1e-8


class LatentProcess:
    """A variance-preserving process on a grid of its timesteps.

    Args:
        alphas_cumprod: abar of all N timesteps, (N,) falling.
        prediction: `v` or `eps`, what the network predicts; the loss is that of v for either.
        grid_steps: how many of the timesteps are trained and sampled, evenly spaced up to the last.

    Raises:
        ValueError: the grid has more timesteps than the process, or less than one.
    """

    def __init__(
        self, alphas_cumprod: Tensor, *, prediction: str, grid_steps: int = GRID_STEPS
    ) -> None:
        num_timesteps = len(alphas_cumprod)
        if not 1 <= grid_steps <= num_timesteps:
            raise ValueError(f"grid_steps must be in 1 to {num_timesteps}, got {grid_steps}")
        self.prediction = prediction
        self.timesteps = torch.arange(1, grid_steps + 1) * num_timesteps // grid_steps - 1
        abar = alphas_cumprod.detach().cpu().double().clamp(min=MIN_ALPHAS_CUMPROD)
        self.sigmas = sigmas_of(abar[self.timesteps])

    def denoiser(self, network: Callable[..., Tensor]) -> VPDenoiser:
        """D around a network that is told the timestep."""
        time_of = TimeTable(self.sigmas, self.timesteps)
        return VPDenoiser(network, prediction=self.prediction, time_of=time_of)

    def sampling_sigmas(self, num_steps: int) -> Tensor:
        """S + 1 noise levels of the grid, from the last timestep's down to 0.

        Raises:
            ValueError: there are not that many timesteps in the grid.
        """
        sigmas = self.sigmas[spaced_timesteps(len(self.sigmas), num_steps)]
        return torch.cat([sigmas.flip(0), sigmas.new_zeros(1)])

    def add_noise(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, …) -> noisy latents x0 + sigma eps and their sigmas (B,), random."""
        sigma = self.sigmas[torch.randint(len(self.sigmas), (len(x0),))]
        return x0 + like(x0, sigma) * torch.randn_like(x0), sigma

    @staticmethod
    def v_loss(x0_hat: Tensor, x0: Tensor, sigma: Tensor) -> Tensor:
        """Squared error of v (Salimans & Ho 2022) that an estimate of x0 makes, a scalar.

        v = sqrt(abar) eps - sqrt(1 - abar) x0 at a given x: its error is that of x0 divided by
        sqrt(1 - abar), whatever the network itself predicts.
        """
        weight = (1 + sigma.double() ** 2) / sigma.double() ** 2
        return (like(x0, weight) * (x0_hat - x0).square()).mean()


def pure_noise(noise: Tensor, sigma: Tensor) -> Tensor:
    """Unit noise (B, …) -> the start of sampling at the level sigma, ().

    x_T ~ N(0, I) at the scale of the variance-preserving process.
    """
    return like(noise, (1 + sigma.double() ** 2).sqrt()) * noise
