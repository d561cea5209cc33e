"""PerCo: vector-quantised hyper-latents and a caption, decoded by a latent diffusion model
(Careil et al., ICLR 2024)."""

from diffcodec.perco.codec import PerCo

__all__ = ["PerCo"]
