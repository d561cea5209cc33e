"""The interface of the enhancer's diffusion models."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from diffcodec.diffusion.denoiser import Denoiser
from diffcodec.diffusion.tiling import TiledDenoiser
from diffcodec.networks.padding import pad_to_multiple
from diffcodec.weights.configuration import Configured


class Prior(Configured, nn.Module, ABC):
    """A diffusion model, its consistency model, and the space that they work in.

    By default this space is images in [-1, 1]; a latent prior overrides it.

    Args:
        window: side of the networks' square input in that space. Larger images are covered by
            overlapping tiles. None processes images whole.

    Attributes:
        multiple: required divisor of both sides of an image, in pixels.
        max_sigma: highest noise level that the networks were trained for.
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
        """Pad the right and lower border by replication to a size that `encode` accepts."""
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
        """The smallest supported side in pixels; `pad` extends smaller images."""
        return self.window or 0

    def denoiser(self) -> Denoiser:
        """D(x; sigma), tiled if the prior has a window.

        Raises:
            ValueError: this prior has no denoiser.
        """
        return self._tiled(self.build_denoiser())

    def consistency(self) -> Denoiser:
        """The consistency function f(x, sigma), tiled if the prior has a window.

        Raises:
            ValueError: this prior has no consistency model.
        """
        return self._tiled(self.build_consistency())

    def ddpm(self) -> Denoiser:
        """D(x; sigma) for ancestral sampling, with x0_hat clamped to [-1, 1].

        It also returns the variance of a step if the network predicts one. The preset ivc uses it.

        Raises:
            ValueError: this prior has no network of a discrete process.
        """
        return self._tiled(self.build_ddpm())

    def ddpm_sigmas(self, steps: int) -> Tensor:
        """Noise levels of `steps` of the network's own timesteps, then 0; (S + 1,).

        Raises:
            ValueError: the process has fewer steps or is not discrete.
        """
        raise ValueError(self._no_ddpm())

    def build_ddpm(self) -> Denoiser:
        """`ddpm` without tiling, for an image of the prior's size."""
        raise ValueError(self._no_ddpm())

    def _no_ddpm(self) -> str:
        return (
            "preset ivc needs a pixel-space denoiser trained at discrete timesteps, which "
            f"{type(self).__name__} does not have: pass codec/prior=imagenet (ADM) or ddpm"
        )

    def _tiled(self, denoiser: Denoiser) -> Denoiser:
        if self.window is None:
            return denoiser
        return TiledDenoiser(denoiser, self.window)

    @abstractmethod
    def build_denoiser(self) -> Denoiser:
        """`denoiser` without tiling, for an image of the prior's size."""

    @abstractmethod
    def build_consistency(self) -> Denoiser:
        """`consistency` without tiling, for an image of the prior's size."""
