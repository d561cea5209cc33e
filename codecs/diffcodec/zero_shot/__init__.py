"""Zero-shot codecs from pretrained diffusion models: the common part of DiffC and DDCM."""

from diffcodec.zero_shot.codec import CAPTION_LENGTH_BITS, Message, ZeroShotCodec

__all__ = ["CAPTION_LENGTH_BITS", "Message", "ZeroShotCodec"]
