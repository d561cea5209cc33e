"""Image codecs behind one interface: an image becomes bytes, the bytes become an image."""

__version__ = "0.1.0"
