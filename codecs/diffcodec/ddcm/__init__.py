"""DDCM: a pretrained diffusion model as a codec, whose noise is chosen from shared codebooks.

Ohayon et al., ICML 2025; implemented as Turbo-DDCM (Vaisman et al., ICLR 2026).
"""

from diffcodec.ddcm.codec import DDCM

__all__ = ["DDCM"]
