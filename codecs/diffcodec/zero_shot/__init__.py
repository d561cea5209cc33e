"""Pretrained diffusion models as codecs, without training: what DiffC and DDCM have in common."""

from diffcodec.zero_shot.codec import CAPTION_LENGTH_BITS, Message, ZeroShotCodec

__all__ = ["CAPTION_LENGTH_BITS", "Message", "ZeroShotCodec"]
