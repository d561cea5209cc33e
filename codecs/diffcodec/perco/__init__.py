"""PerCo (Careil et al., ICLR 2024): VQ codes and a caption, decoded by latent diffusion."""

from diffcodec.perco.codec import PerCo
from diffcodec.perco.settings import HyperEncoderSettings, TrainingSettings

__all__ = ["HyperEncoderSettings", "PerCo", "TrainingSettings"]
