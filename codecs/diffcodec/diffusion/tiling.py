"""Networks of a fixed size on images of any size: overlapping tiles, blended in x0."""

from typing import Any

import torch
from torch import Tensor

from diffcodec.diffusion.denoiser import Denoiser


class TiledDenoiser:
    """A denoiser on overlapping squares whose estimates of x0 are averaged, at every call.

    A sampler sees one image and one estimate of it: what neighbouring tiles disagree on is settled
    at each noise level, not in the finished picture. Weights fall linearly from a tile's centre
    to its border, so that no pixel changes its owner all at once.

    Args:
        denoiser: D(x; sigma, **condition) on squares; conditions are handed to it as they are.
        window: their side.
        overlap: by how much neighbours overlap at least, as a share of the window in (0, 1).

    Raises:
        ValueError: the window has no pixel, or the overlap is not in (0, 1).
    """

    def __init__(self, denoiser: Denoiser, window: int, overlap: float = 0.25) -> None:
        if window < 1:
            raise ValueError(f"a window has at least 1 pixel a side, got {window}")
        if not 0 < overlap < 1:
            raise ValueError(f"the overlap must be in (0, 1), got {overlap}")
        self.denoiser = denoiser
        self.window = window
        self.overlap = overlap
        rising = torch.arange(1, window + 1, dtype=torch.float32)
        profile = torch.minimum(rising, rising.flip(0))
        self._weight = profile[:, None] * profile

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        """Images (B, …, H, W), both sides at least the window's -> x0_hat."""
        height, width = x.shape[-2:]
        if (height, width) == (self.window, self.window):
            return self.denoiser(x, sigma, **condition)
        total, weights = torch.zeros_like(x), x.new_zeros(height, width)
        weight = self._weight.to(x)
        for top in self.starts(height):
            for left in self.starts(width):
                rows, columns = slice(top, top + self.window), slice(left, left + self.window)
                x0 = self.denoiser(x[..., rows, columns], sigma, **condition)
                total[..., rows, columns] += weight * x0
                weights[rows, columns] += weight
        return total / weights

    def starts(self, side: int) -> list[int]:
        """Where tiles begin along a side, evenly spread.

        Raises:
            ValueError: the side is shorter than the window.
        """
        if side < self.window:
            raise ValueError(f"a side of {side} is shorter than the window of {self.window}")
        stride = max(1, int(self.window * (1 - self.overlap)))
        count = -(-(side - self.window) // stride) + 1
        if count == 1:
            return [0]
        return [round(i * (side - self.window) / (count - 1)) for i in range(count)]
