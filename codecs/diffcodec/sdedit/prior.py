"""The interface that the enhancer needs of a diffusion model of images."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from diffcodec.diffusion.denoiser import Denoiser
from diffcodec.diffusion.tiling import TiledDenoiser
from diffcodec.networks.padding import pad_to_multiple
from diffcodec.weights.configuration import Configured


class Prior(Configured, nn.Module, ABC):
    """A diffusion model, a consistency model of it, and the space in which they live.

    Here that space is images in [-1, 1]; a latent prior has its own.

    Args:
        window: side of the squares that the networks take, in that space: larger images are covered
            by overlapping ones. None takes images whole.

    Attributes:
        multiple: sides of images in pixels must be multiples of it.
        max_sigma: the highest noise level that the networks know.
    """

    multiple: int = 1
    max_sigma: float = 80.0

    def __init__(self, window: int | None = None) -> None:
        super().__init__()
        self.window = window

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], sides multiples of `multiple` -> the prior's space."""
        return (x * 2).sub_(1)

    def decode(self, z: Tensor) -> Tensor:
        """Inverse of `encode`, not clamped."""
        return (z + 1).div_(2)

    def pad(self, x: Tensor) -> Tensor:
        """Repeat the right and lower border up to what `encode` and the window take."""
        return pad_to_multiple(x, self.multiple, min_side=self.min_side)

    @abstractmethod
    def unets(self) -> list[nn.Module]:
        """The networks that the denoisers call."""

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """`torch.compile` the networks."""
        for network in self.unets():
            network.compile(*args, **kwargs)

    @property
    def min_side(self) -> int:
        """The smallest image in pixels."""
        return self.window or 0

    def denoiser(self) -> Denoiser:
        """D(x; sigma), on tiles where there is a window.

        Raises:
            ValueError: this prior has no such network.
        """
        return self._tiled(self.build_denoiser())

    def consistency(self) -> Denoiser:
        """f(x, sigma), on tiles where there is a window.

        Raises:
            ValueError: this prior has no such network.
        """
        return self._tiled(self.build_consistency())

    def ddpm(self) -> Denoiser:
        """D(x; sigma) with x0_hat in [-1, 1] and the variance of a step where it is learned.

        It is `denoiser` as the network was sampled from when it was trained, for the preset ivc.

        Raises:
            ValueError: this prior has no network of a discrete process.
        """
        return self._tiled(self.build_ddpm())

    def ddpm_sigmas(self, steps: int) -> Tensor:
        """Noise levels of `steps` of the process that the network was trained on, then 0; (S + 1,).

        Raises:
            ValueError: it has fewer steps, or it is no discrete process.
        """
        raise ValueError(self._no_ddpm())

    def build_ddpm(self) -> Denoiser:
        """As `ddpm`, on an image of the prior's size."""
        raise ValueError(self._no_ddpm())

    def _no_ddpm(self) -> str:
        return (
            "preset ivc needs a denoiser of pixels that was trained at discrete timesteps, as "
            f"codec/prior=imagenet (ADM) and ddpm are: {type(self).__name__} has none"
        )

    def _tiled(self, denoiser: Denoiser) -> Denoiser:
        if self.window is None:
            return denoiser
        return TiledDenoiser(denoiser, self.window)

    @abstractmethod
    def build_denoiser(self) -> Denoiser:
        """D(x; sigma) on an image of the prior's size."""

    @abstractmethod
    def build_consistency(self) -> Denoiser:
        """f(x, sigma) on an image of the prior's size."""
