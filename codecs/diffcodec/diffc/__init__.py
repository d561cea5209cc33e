"""DiffC: a pretrained diffusion model as a progressive codec, by reverse channel coding.

Theis et al. 2022; Vonderfecht & Liu, ICLR 2025.
"""

from diffcodec.diffc.codec import DiffC

__all__ = ["DiffC"]
