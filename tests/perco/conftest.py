import os
from pathlib import Path

import pytest
import torch

from diffcodec.perco import PerCo
from tests.latent.tiny import tiny_backbone
from tests.perco.tiny import SIZES, arguments

# By its folder or, where a checkout lies elsewhere, by the environment.
SHARED = Path(os.environ.get("DIFFCODEC_SHARED", Path(__file__).parents[3] / "shared"))


@pytest.fixture(scope="session")
def reference_folder() -> Path:
    """What the authors' hyper-encoder computes with random weights."""
    folder = SHARED / "reference" / "perco"
    if not folder.is_dir():
        pytest.skip(f"no reference outputs in {folder} (set DIFFCODEC_SHARED)")
    return folder


@pytest.fixture(scope="session")
def make_backbone():
    """Options -> a tiny backbone, the same weights every time."""
    return tiny_backbone


@pytest.fixture(scope="session")
def make_codec():
    """Rates, options -> a tiny codec in eval mode, whose latents differ from image to image."""
    return _codec


def _codec(rates=("8x8/16", "16x16/16", "64x64/256"), **options) -> PerCo:
    small = {**SIZES, "steps": 2, "text_coder": "dictionary"}
    codec = PerCo(tiny_backbone(), rates, **arguments(**{**small, **options})).eval()
    with torch.no_grad():
        codec.model.backbone.latents.scale.fill_(20.0)
        for encoder in codec.model.hyper_encoders.values():
            for conv in (encoder.backbone[0], encoder.backbone[13]):
                conv.weight.mul_(4)
    return codec
