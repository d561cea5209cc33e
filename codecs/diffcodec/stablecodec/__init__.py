"""StableCodec: a learned latent codec with one-step diffusion (Zhang et al., ICCV 2025)."""

from diffcodec.stablecodec.codec import StableCodec

__all__ = ["StableCodec"]
