import pytest
import torch

from diffcodec.ddcm import DDCM
from tests.latent.tiny import tiny_backbone


@pytest.fixture(scope="session")
def make_codec():
    """Options -> a tiny codec in eval mode; its weights are random, the same every time."""
    return _codec


def _codec(bpp=(0.3, 1.0), **options) -> DDCM:
    codec = DDCM(tiny_backbone(), bpp, **{"log2_atoms": 8, "T": 4, "steps": 2, **options}).eval()
    with torch.no_grad():
        codec.backbone.latents.scale.fill_(20.0)
    return codec
