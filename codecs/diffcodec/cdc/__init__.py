"""CDC: lossy image compression with a conditional diffusion decoder (Yang & Mandt 2023)."""

from diffcodec.cdc.codec import CDC
from diffcodec.cdc.residual import ResidualCDC

__all__ = ["CDC", "ResidualCDC"]
