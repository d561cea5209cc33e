"""The state that sender and receiver share: a noisy latent, and how it is refined level by level.

At the level s both hold x_s. From there to n, with r = n^2 / s^2 and v = (1 - r) n^2,

    x_n = r x_s + (1 - r) D(x_s; s) + sqrt(v) z,    z about N(mu, I),
    mu  = (1 - r) (x0 - D(x_s; s)) / sqrt(v),

where z is sent by a channel (Theis et al. 2022, Sec. 3; Ho et al. 2020, Sec. 4.3). The sender goes
on from the z that the receiver has. Where their networks round otherwise, their x differ by as
much: a step multiplies a difference by r + (1 - r) dD/dx, which is below 1 where D is a posterior
mean, so that differences do not grow.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from diffcodec.coding.hadamard import permutation
from diffcodec.zero_shot.ladder import Level

Estimate = Callable[[Tensor, Tensor], Tensor]
"""x (1, C, H, W) and its noise level, () -> x0_hat: a denoiser with all its conditions."""


class Channel(Protocol):
    """Sends numbers mu (n, d) as indices of shared random numbers."""

    def encode(self, mu: Tensor, key: int) -> tuple[Tensor, Tensor]:
        """The indices, and the samples (n, d) that `decode` makes of them."""

    def decode(self, indices: Tensor, length: int, key: int) -> Tensor:
        """Samples (n, length) of the first chunks."""


class Refinement:
    """A noisy latent on its way from noise to an image.

    Args:
        estimate: the denoiser.
        x: the start, pure noise, (1, C, H, W).
        sigma: its noise level.
        size: height and width of what is sent of it, from the upper left; the rest, padding, goes
            along as the probability flow takes it.
        channel: sends the numbers.
        shuffled: whether chunks are made of numbers from everywhere, by a shared order.

    Attributes:
        x, sigma: what both sides hold, and its noise level.
        x0: D(x; sigma).
    """

    def __init__(
        self,
        estimate: Estimate,
        x: Tensor,
        sigma: float,
        *,
        size: tuple[int, int],
        channel: Channel,
        shuffled: bool = True,
    ) -> None:
        self._estimate = estimate
        self._shuffled = shuffled
        self._channel = channel
        self._size = size
        self._hold(x, sigma)

    def _hold(self, x: Tensor, sigma: float) -> None:
        self.x, self.sigma = x, sigma
        self.x0 = self._estimate(x, torch.tensor(sigma, dtype=torch.float64))

    def error(self, x0: Tensor) -> float:
        """Mean squared error of D(x; sigma), where it is sent."""
        return float(self._sent(x0 - self.x0).double().square().mean())

    def send(self, x0: Tensor, level: Level) -> Tensor:
        """Go to the next level, knowing x0 (1, C, H, W) -> the indices of its chunks, (count,)."""
        _, gain, scale = _coefficients(level)
        mu = self._sent(x0 - self.x0).flatten() * (gain / scale)
        filled = mu.new_zeros(level.count, -(-len(mu) // level.count))
        filled.view(-1)[: len(mu)] = mu[self._order(mu, level)]
        indices, samples = self._channel.encode(filled, level.number)
        self._go_on(samples, level)
        return indices

    def receive(self, indices: Tensor, level: Level) -> None:
        """Go to the next level, with the indices of its first chunks, (n,) with n <= count."""
        length = -(-self._sent(self.x).numel() // level.count)
        samples = self._channel.decode(indices.to(self.x.device), length, level.number)
        self._go_on(samples, level)

    def _go_on(self, samples: Tensor, level: Level) -> None:
        """Go to the next level, with samples (n, length) of its first chunks."""
        ratio, gain, scale = _coefficients(level)
        # What did not arrive goes along as the probability flow takes it, the step of DDIM: of the
        # right noise level, and without noise that nobody sent.
        x = self.x0 + (level.next_sigma / level.sigma) * (self.x - self.x0)
        mean = self._sent(ratio * self.x + gain * self.x0).flatten()
        values = self._sent(x).flatten()
        order = self._order(values, level)
        arrived = samples.flatten()[: len(order)]
        order = order[: len(arrived)]
        values[order] = mean[order] + scale * arrived
        rows, columns = self._size
        x[..., :rows, :columns] = values.view(1, -1, rows, columns)
        self._hold(x, level.next_sigma)

    def _order(self, values: Tensor, level: Level) -> Tensor:
        """In which the numbers (N,) are cut into chunks."""
        if not self._shuffled:
            return torch.arange(len(values), device=values.device)
        return permutation(len(values), level.number).to(values.device)

    def _sent(self, latent: Tensor) -> Tensor:
        return latent[..., : self._size[0], : self._size[1]]


def _coefficients(level: Level) -> tuple[float, float, float]:
    """r, 1 - r and sqrt(v) of a step."""
    ratio = (level.next_sigma / level.sigma) ** 2
    return ratio, 1 - ratio, level.next_sigma * math.sqrt(1 - ratio)
