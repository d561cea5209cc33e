"""Image codecs behind one interface: an image becomes bytes, the bytes become an image."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffcodec.codec import Codec

__version__ = "0.2.0"
__all__ = ["load"]


def load(source: str, **overrides: Any) -> "Codec":
    """A trained codec, ready to code.

        codec = diffcodec.load("cdc")
        streams = codec.compress(x)           # x (B, 3, H, W) in [0, 1] -> a byte string per image
        x_hat = codec.decompress(streams)     # (B, 3, H, W) in [0, 1], in any process

    Args:
        source: a name that ships, a folder that `codec.save` or a training wrote, or
            `hf://owner/repo[@revision]`.
        overrides: arguments of the codec's constructor in place of those that it was saved with, as
            in `steps=[5, 17]`.

    Raises:
        ValueError: there is no codec, or it has no such argument.
    """
    from diffcodec.codec import Codec
    from diffcodec.weights.model_folder import load_model

    codec = load_model(source, **overrides)
    if not isinstance(codec, Codec):
        raise ValueError(f"{source!r} is not a codec but a part of one, a {type(codec).__name__}")
    return codec.eval()
