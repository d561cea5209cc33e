"""CDC: lossy image compression with a conditional diffusion decoder (Yang & Mandt 2023)."""

from diffcodec.cdc.codec import CDC

__all__ = ["CDC"]
