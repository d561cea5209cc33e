"""Small codecs of each zero-shot method, for tests."""

from typing import Any

import torch

from diffcodec.codec import Codec
from diffcodec.ddcm import DDCM
from diffcodec.diffc import DiffC
from tests.latent.tiny import tiny_backbone

METHODS: dict[str, Any] = {"diffc": DiffC, "ddcm": DDCM}


def new_codec(method: str, backbone: Any, bpp: Any, *, bits: int = 8, **options: Any) -> Any:
    """A codec over a backbone in eval mode, with few steps and `bits` bits per codebook."""
    size = {"diffc": {"log2_candidates": bits}, "ddcm": {"log2_atoms": bits, "T": 4}}[method]
    return METHODS[method](backbone, bpp, **{"steps": 2, **size, **options}).eval()


def tiny_codec(method: str, bpp: Any = (0.2, 1.0), **options: Any) -> Any:
    """A codec over a tiny backbone, whose weights are random, the same every time."""
    codec = new_codec(method, tiny_backbone(), bpp, **options)
    with torch.no_grad():
        codec.backbone.latents.scale.fill_(20.0)
    return codec


def stream_of(codec: Codec, x: torch.Tensor, point: object) -> bytes:
    """The stream of one image at a point."""
    return codec.compress(x, point)[0]


def payload_of(codec: Codec, stream: bytes) -> bytes:
    """The single section of a stream."""
    return codec.unpack([stream])[0].sections[0]
