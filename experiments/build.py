"""From a config to a codec."""

from typing import TYPE_CHECKING

from omegaconf import DictConfig

if TYPE_CHECKING:
    from diffcodec.codec import Codec


def build_codec(cfg: DictConfig) -> "Codec":
    """The codec of a config, in its memory format.

    Raises:
        ValueError: a setting of the codec is wrong, or its weights cannot be had.
    """
    import torch
    from hydra.utils import instantiate

    codec: Codec = instantiate(cfg.codec)
    if cfg.channels_last:
        codec.to(memory_format=torch.channels_last)
    return codec


def build_coder(cfg: DictConfig) -> "Codec":
    """A codec that is only to code: with the weights of `ckpt_path`, if any, in evaluation mode."""
    codec = build_codec(cfg)
    if cfg.ckpt_path:
        from diffcodec.weights import load_checkpoint, load_strict, state_dict_of

        state = state_dict_of(load_checkpoint(cfg.ckpt_path))
        load_strict(codec, state, source=cfg.ckpt_path)
    elif is_untrained(codec, cfg):
        raise ValueError("this codec needs weights: give ckpt_path=FILE or codec.weights=…")
    return codec.eval()


def is_untrained(codec: "Codec", cfg: DictConfig) -> bool:
    """Whether a codec that needs training has weights from nowhere."""
    return codec.trainable and not cfg.ckpt_path and not cfg.codec.get("weights")


def choose_points(codec: "Codec", point: object) -> tuple[str, ...]:
    """All operating points, or the one that was asked for by its name or by its value alone.

    Raises:
        ValueError: none or several points match.
    """
    if point is None:
        return codec.points
    wanted = str(point)
    matches = [p for p in codec.points if p == wanted or p.partition("=")[2] == wanted]
    if len(matches) != 1:
        raise ValueError(f"unknown operating point {wanted!r}, choose from {codec.points}")
    return (matches[0],)
