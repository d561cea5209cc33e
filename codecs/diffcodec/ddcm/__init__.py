"""DDCM: any diffusion model as a codec, whose noise is made of named atoms of shared codebooks
(Ohayon et al., ICML 2025), in its turbo form (Vaisman et al., ICLR 2026)."""

from diffcodec.ddcm.codec import DDCM

__all__ = ["DDCM"]
