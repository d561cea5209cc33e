"""StableCodec: one step of a distilled diffusion model over a learned latent codec (Zhang et al.,
ICCV 2025)."""

from diffcodec.stablecodec.codec import StableCodec

__all__ = ["StableCodec"]
