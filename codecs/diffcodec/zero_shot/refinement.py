"""The shared state of sender and receiver: a noisy latent that is refined level by level.

At noise level s, both have x_s. A step to noise level n, with r = n^2 / s^2 and v = (1 - r) n^2, is

    x_n = r x_s + (1 - r) D(x_s; s) + sqrt(v) z,    z approximately N(mu, I),
    mu  = (1 - r) (x0 - D(x_s; s)) / sqrt(v),

where a channel sends z (Theis et al. 2022, Sec. 3; Ho et al. 2020, Sec. 4.3). The sender continues
from the z that the receiver decodes. If their networks round differently, their x differ slightly.
A step multiplies the difference by r + (1 - r) dD/dx, which is below 1 if D is a posterior mean, so
differences do not grow.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from diffcodec.coding.hadamard import permutation
from diffcodec.zero_shot.ladder import Level

Estimate = Callable[[Tensor, Tensor], Tensor]
"""A denoiser with all its conditions: x (1, C, H, W) and its noise level, () -> x0_hat."""


class Channel(Protocol):
    """Sends numbers mu (n, d) as indices of shared random numbers."""

    def encode(self, mu: Tensor, key: int) -> tuple[Tensor, Tensor]:
        """The indices, and the samples (n, d) that `decode` returns for them."""

    def decode(self, indices: Tensor, length: int, key: int) -> Tensor:
        """The samples (n, length) of the first n chunks."""


class Refinement:
    """A noisy latent that is denoised level by level, on the sender's or the receiver's side.

    Args:
        estimate: the denoiser.
        x: starting noise, (1, C, H, W).
        sigma: noise level of x.
        size: height and width of the part that is sent, at the upper left. The rest is padding and
            follows the probability flow.
        channel: channel that sends the values.
        shuffled: split the values into chunks in a shared random order instead of their own.

    Attributes:
        x, sigma: the noisy latent and its noise level.
        x0: the estimate D(x; sigma).
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
        """Mean squared error of D(x; sigma) over the part that is sent."""
        return float(self._sent(x0 - self.x0).double().square().mean())

    def send(self, x0: Tensor, level: Level) -> Tensor:
        """Encode x0 (1, C, H, W) at a level and take its step -> its chunks' indices, (count,)."""
        _, gain, scale = _coefficients(level)
        mu = self._sent(x0 - self.x0).flatten() * (gain / scale)
        filled = mu.new_zeros(level.count, -(-len(mu) // level.count))
        filled.view(-1)[: len(mu)] = mu[self._order(mu, level)]
        indices, samples = self._channel.encode(filled, level.number)
        self._go_on(samples, level)
        return indices

    def receive(self, indices: Tensor, level: Level) -> None:
        """Take the step of a level from the indices of its first n <= count chunks, (n,)."""
        length = -(-self._sent(self.x).numel() // level.count)
        samples = self._channel.decode(indices.to(self.x.device), length, level.number)
        self._go_on(samples, level)

    def _go_on(self, samples: Tensor, level: Level) -> None:
        """Take the step of a level from the samples (n, length) of its first n chunks."""
        ratio, gain, scale = _coefficients(level)
        # Missing chunks take a DDIM step along the probability flow, which reaches the right noise
        # level without new noise.
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
        """The order in which values (N,) are split into chunks."""
        if not self._shuffled:
            return torch.arange(len(values), device=values.device)
        return permutation(len(values), level.number).to(values.device)

    def _sent(self, latent: Tensor) -> Tensor:
        return latent[..., : self._size[0], : self._size[1]]


def _coefficients(level: Level) -> tuple[float, float, float]:
    """r, 1 - r and sqrt(v) of a level's step."""
    ratio = (level.next_sigma / level.sigma) ** 2
    return ratio, 1 - ratio, level.next_sigma * math.sqrt(1 - ratio)
