"""SDEdit over any codec: add noise to a base codec's reconstruction, then denoise it."""

from diffcodec.sdedit.codec import SDEdit

__all__ = ["SDEdit"]
