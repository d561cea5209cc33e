"""SDEdit over any codec: noise on what it decoded, and a diffusion model back to none."""

from diffcodec.sdedit.codec import SDEdit

__all__ = ["SDEdit"]
