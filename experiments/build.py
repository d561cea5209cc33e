"""Builds the codec of a config and refuses untrained ones."""

import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from omegaconf import DictConfig

if TYPE_CHECKING:
    from torch import nn

    from diffcodec.codec import Codec

log = logging.getLogger(__name__)


def fix_threads(threads: int | None) -> None:
    """Use this many CPU threads in this process and its children; None changes nothing.

    The summation order of convolutions depends on the number of threads, and with it the last bits
    of a reconstruction: a few grey levels in a hundred thousand are rounded differently.

    Raises:
        ValueError: `threads` is not positive.
    """
    if threads is None:
        return
    if threads < 1:
        raise ValueError(f"threads={threads}: must be at least 1, or null for all cores")
    import torch

    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # otherwise Lightning divides the cores again


def is_sharded(cfg: DictConfig) -> bool:
    """Whether the trainer of a config shards the networks over its processes."""
    strategy = (cfg.get("trainer") or {}).get("strategy")
    return isinstance(strategy, DictConfig) and str(strategy.get("_target_")).endswith(
        "ModelParallelStrategy"
    )


def build_codec(cfg: DictConfig) -> "Codec":
    """The codec of a config, with its memory format and number of threads.

    Raises:
        ValueError: a setting is wrong, or weights are not available.
    """
    import torch
    from hydra.utils import instantiate

    if cfg.get("codec") is None:
        raise ValueError("this recipe trains a part and has no codec: choose one by codec=…")
    fix_threads(cfg.threads)
    codec: Codec = instantiate(cfg.codec)
    log.info("the codec is %s", " over ".join(_classes(codec)))
    if cfg.channels_last:
        codec.to(memory_format=torch.channels_last)
    return codec


def _classes(codec: "Codec") -> Iterator[str]:
    """The class of a codec and those of the codecs it decodes, which an override may hide."""
    from diffcodec.codec import Codec

    yield f"{type(codec).__module__}.{type(codec).__qualname__}"
    for child in codec.children():
        if isinstance(child, Codec):
            yield from _classes(child)


def build_coder(cfg: DictConfig) -> "Codec":
    """A codec for coding only: with the weights of `ckpt_path`, if any, in evaluation mode."""
    codec = build_codec(cfg)
    if cfg.ckpt_path:
        load_trained(codec, cfg.ckpt_path)
    refuse_untrained(codec, cfg)
    return codec.eval()


def load_trained(module: "nn.Module", source: str) -> None:
    """Load the weights of a checkpoint; the averaged ones, if it has them.

    Args:
        module: the trained module.
        source: a file, or another source of `diffcodec.weights`.

    Raises:
        ValueError: it is not available, is truncated, or does not fit.
    """
    from diffcodec.weights.loading import load_checkpoint, load_strict, state_dict_of

    load_strict(module, state_dict_of(load_checkpoint(source)), source=source)


def refuse_untrained(codec: "Codec", cfg: DictConfig) -> None:
    """Refuse a codec with random weights.

    Raises:
        ValueError: it has no trained weights; the message says how to pass some.
    """
    from diffcodec.zero_shot import ZeroShotCodec

    if cfg.allow_untrained or not is_untrained(codec, cfg):
        return
    keys = [f"codec.{name}.weights=…" for name, _ in untrained_parts(codec, cfg)]
    if _lacks_weights(codec, cfg.codec):
        zero_shot = isinstance(codec, ZeroShotCodec)
        keys.append("codec.backbone.weights=…" if zero_shot else "codec.weights=…")
    raise ValueError(
        f"{type(codec).__name__} has no trained weights: pass {' and '.join(keys)} (the codec's "
        "YAML lists sources) or ckpt_path=FILE, or train it first by a recipe (experiment=…) or "
        "fit=true; pass allow_untrained=true to run anyway"
    )


def refuse_untrained_parts(codec: "Codec", cfg: DictConfig) -> None:
    """Refuse to train a codec over another one with random, fixed weights.

    Raises:
        ValueError: it contains such a codec; the message says how to pass weights.
    """
    parts = untrained_parts(codec, cfg)
    if cfg.allow_untrained or not parts:
        return
    keys = " and ".join(f"codec.{name}.weights=…" for name, _ in parts)
    raise ValueError(
        f"{type(codec).__name__} would be trained over an untrained "
        f"{type(parts[0][1]).__name__}, whose weights do not change: pass {keys}, or train it "
        "first; pass allow_untrained=true to run anyway"
    )


def is_untrained(codec: "Codec", cfg: DictConfig) -> bool:
    """Whether a codec that needs training, or one that it is built on, has random weights."""
    if cfg.ckpt_path:
        return False
    return _lacks_weights(codec, cfg.codec) or bool(untrained_parts(codec, cfg))


def _lacks_weights(codec: "Codec", settings: DictConfig) -> bool:
    """Whether a codec needs trained weights and neither its settings nor its parts have any."""
    needs = codec.trainable or codec.requires_weights
    return needs and not (settings.get("weights") or codec.pretrained)


def untrained_parts(codec: "Codec", cfg: DictConfig) -> "list[tuple[str, Codec]]":
    """The codecs inside a codec that need training and have random weights, by name."""
    from diffcodec.codec import Codec

    if cfg.ckpt_path:
        return []
    return [
        (name, child)
        for name, child in codec.named_children()
        if isinstance(child, Codec) and _lacks_weights(child, cfg.codec[name])
    ]
