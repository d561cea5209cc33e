"""Pretrained diffusion models as codecs, without training: what DiffC and DDCM have in common."""

from diffcodec.zero_shot.codec import ZeroShotCodec

__all__ = ["ZeroShotCodec"]
