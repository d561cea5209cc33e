"""PerCo (Careil et al., ICLR 2024): VQ codes and a caption, decoded by latent diffusion."""

from diffcodec.perco.codec import PerCo

__all__ = ["PerCo"]
