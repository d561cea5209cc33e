"""Building the codec of a config, and refusing one that has no trained weights."""

import os
from typing import TYPE_CHECKING

from omegaconf import DictConfig

if TYPE_CHECKING:
    from torch import nn

    from diffcodec.codec import Codec


def fix_threads(threads: int | None) -> None:
    """Use this many CPU threads in this process and in those that it starts; None changes nothing.

    The order in which a convolution adds depends on the number of threads, and with it the last
    bits of a picture: a few grey levels in a hundred thousand fall on the other side.

    Raises:
        ValueError: `threads` is not positive.
    """
    if threads is None:
        return
    if threads < 1:
        raise ValueError(f"threads={threads}: must be at least 1, or null for all cores")
    import torch

    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # else Lightning shares out the cores again


def is_sharded(cfg: DictConfig) -> bool:
    """Whether the trainer of a config shares out the networks over its processes."""
    strategy = (cfg.get("trainer") or {}).get("strategy")
    return isinstance(strategy, DictConfig) and str(strategy.get("_target_")).endswith(
        "ModelParallelStrategy"
    )


def build_codec(cfg: DictConfig) -> "Codec":
    """The codec of a config, in its memory format, on as many threads as the config says.

    Raises:
        ValueError: a setting is wrong, or its weights cannot be had.
    """
    import torch
    from hydra.utils import instantiate

    if cfg.get("codec") is None:
        raise ValueError("this recipe trains a part and has no codec: choose one by codec=…")
    fix_threads(cfg.threads)
    codec: Codec = instantiate(cfg.codec)
    if cfg.channels_last:
        codec.to(memory_format=torch.channels_last)
    return codec


def build_coder(cfg: DictConfig) -> "Codec":
    """A codec that is only to code: with the weights of `ckpt_path`, if any, in evaluation mode."""
    codec = build_codec(cfg)
    if cfg.ckpt_path:
        load_trained(codec, cfg.ckpt_path)
    refuse_untrained(codec, cfg)
    return codec.eval()


def load_trained(module: "nn.Module", source: str) -> None:
    """Load the weights of a checkpoint; those that were averaged, where there was an average.

    Args:
        module: what was trained.
        source: a file, or another source of `diffcodec.weights`.

    Raises:
        ValueError: it cannot be had, is cut off, or does not fit.
    """
    from diffcodec.weights import load_checkpoint, load_strict, state_dict_of

    load_strict(module, state_dict_of(load_checkpoint(source)), source=source)


def refuse_untrained(codec: "Codec", cfg: DictConfig) -> None:
    """Stop where a codec would code with random weights.

    Raises:
        ValueError: it has no weights; the message says how to give it some.
    """
    from diffcodec.zero_shot import ZeroShotCodec

    if cfg.allow_untrained or not is_untrained(codec, cfg):
        return
    keys = [f"codec.{name}.weights=…" for name, _ in untrained_parts(codec, cfg)]
    if _lacks_weights(codec, cfg.codec):
        zero_shot = isinstance(codec, ZeroShotCodec)
        keys.append("codec.backbone.weights=…" if zero_shot else "codec.weights=…")
    raise ValueError(
        f"{type(codec).__name__} has no trained weights, and what it measures would be noise: give "
        f"{' and '.join(keys)} (see the YAML of the codec for where they come from), "
        "ckpt_path=FILE, or train it first by a recipe (experiment=…) or fit=true; "
        "allow_untrained=true goes on all the same"
    )


def refuse_untrained_parts(codec: "Codec", cfg: DictConfig) -> None:
    """Stop where a codec would be trained over another one that has random weights and keeps them.

    Raises:
        ValueError: there is such a codec inside; the message says how to give it weights.
    """
    parts = untrained_parts(codec, cfg)
    if cfg.allow_untrained or not parts:
        return
    keys = " and ".join(f"codec.{name}.weights=…" for name, _ in parts)
    raise ValueError(
        f"{type(codec).__name__} would be trained over a {type(parts[0][1]).__name__} that has no "
        f"trained weights and is not trained along: give {keys}, or train that one first; "
        "allow_untrained=true goes on all the same"
    )


def is_untrained(codec: "Codec", cfg: DictConfig) -> bool:
    """Whether a codec that needs training, or one that it is built on, has no trained weights."""
    if cfg.ckpt_path:
        return False
    return _lacks_weights(codec, cfg.codec) or bool(untrained_parts(codec, cfg))


def _lacks_weights(codec: "Codec", settings: DictConfig) -> bool:
    """Whether a codec needs trained weights and neither its settings nor its parts brought any."""
    needs = codec.trainable or codec.requires_weights
    return needs and not (settings.get("weights") or codec.pretrained)


def untrained_parts(codec: "Codec", cfg: DictConfig) -> "list[tuple[str, Codec]]":
    """The codecs inside a codec that need training and have no trained weights, by name."""
    from diffcodec.codec import Codec

    if cfg.ckpt_path:
        return []
    return [
        (name, child)
        for name, child in codec.named_children()
        if isinstance(child, Codec) and _lacks_weights(child, cfg.codec[name])
    ]
