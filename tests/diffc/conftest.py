import pytest
import torch

from diffcodec.diffc import DiffC
from tests.latent.tiny import tiny_backbone


@pytest.fixture(scope="session")
def make_codec():
    """Options -> a tiny codec in eval mode; its weights are random, the same every time."""
    return _codec


def _codec(bpp=(0.2, 1.0), **options) -> DiffC:
    codec = DiffC(tiny_backbone(), bpp, **{"log2_candidates": 8, "steps": 2, **options}).eval()
    with torch.no_grad():
        codec.backbone.latents.scale.fill_(20.0)
    return codec
