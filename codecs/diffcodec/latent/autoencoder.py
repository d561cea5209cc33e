"""The latent space of an autoencoder: images in [0, 1] <-> latents of about unit variance."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffcodec.diffusion.tiling import blend_tiles, check_window
from diffcodec.networks.padding import pad_to_multiple
from diffcodec.weights.loading import load_checkpoint, load_strict, state_dict_of

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

WINDOW = 1024
_NAME = "latents."  # state-dict prefix of an autoencoder inside a larger model


class LatentSpace(nn.Module):
    """A diffusers autoencoder with pixel unshuffle, latent normalization and tiling.

    Args:
        vae: diffusers autoencoder.
        patch: factor of the pixel unshuffle before the autoencoder; 1 for Stable Diffusion.
        shift, scale: normalization of latents, (z - shift) * scale; saved with the weights.
        window: side in pixels up to which images are processed whole. Larger images are split into
            overlapping tiles of this side, which are blended. The autoencoder's normalization and
            attention then cover a tile instead of the image.

    Raises:
        ValueError: the window is not a multiple of `stride`.
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        vae: "AutoencoderKL",
        *,
        patch: int = 1,
        shift: float = 0.0,
        scale: float = 1.0,
        window: int = WINDOW,
    ) -> None:
        super().__init__()
        self.vae: Any = vae
        self.patch = patch
        check_window(window, self.stride)
        self.window = window
        channels = self.channels
        self.register_buffer("shift", torch.full((1, channels, 1, 1), float(shift)))
        self.register_buffer("scale", torch.full((1, channels, 1, 1), float(scale)))

    @property
    def channels(self) -> int:
        """Number of channels of a latent."""
        return int(self.vae.config.latent_channels)

    @property
    def stride(self) -> int:
        """The downsampling factor f: pixels per latent and side."""
        return int(self.patch * 2 ** (len(self.vae.config.block_out_channels) - 1))

    def encode(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], sides multiples of `stride` -> (B, C, H / f, W / f).

        Returns the mean of the posterior, because coding must be deterministic.
        """
        z = blend_tiles(
            lambda rows, columns: self.posterior(x[..., rows, columns]).mode(),
            (x.shape[-2], x.shape[-1]),
            self.window,
            multiple=self.stride,
            down=self.stride,
        )
        return (z.to(self.shift.dtype) - self.shift) * self.scale

    def decode(self, latent: Tensor) -> Tensor:
        """Inverse of `encode`, not clamped."""
        z = latent / self.scale + self.shift
        return blend_tiles(
            lambda rows, columns: self._picture(z[..., rows, columns]),
            (z.shape[-2], z.shape[-1]),
            self.window // self.stride,
            up=self.stride,
        )

    def _picture(self, z: Tensor) -> Tensor:
        x = self.vae.decode(z.to(self.vae.dtype)).sample.to(z.dtype)
        return (F.pixel_shuffle(x, self.patch) + 1) / 2

    def round_trip(self, x: Tensor) -> Tensor:
        """Encode and decode images (B, 3, H, W) in [0, 1] of any size, without quantization.

        Processes one image at a time, as in coding.
        """
        height, width = x.shape[-2:]
        latents = (self.encode(pad_to_multiple(image, self.stride)) for image in x.split(1))
        images = [self.decode(latent)[..., :height, :width] for latent in latents]
        return torch.cat(images).clamp(0, 1)

    def load_weights(self, source: str) -> None:
        """Load the weights of an autoencoder, or the autoencoder's weights of a backbone or PerCo.

        Raises:
            ValueError: the weights cannot be loaded or do not fit.
        """
        state = state_dict_of(load_checkpoint(source))
        own = {k.partition(_NAME)[2]: v for k, v in state.items() if _NAME in k}
        load_strict(self, own or state, source=source)

    def posterior(self, x: Tensor) -> Any:
        """The Gaussian posterior of images (B, 3, H, W) in [0, 1], without shift and scale."""
        x = F.pixel_unshuffle(x * 2 - 1, self.patch)
        return self.vae.encode(x.to(self.vae.dtype)).latent_dist
