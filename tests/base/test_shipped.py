"""What the shipped weights must reach."""

import numpy as np
import pytest
from hydra.utils import instantiate
from scipy.interpolate import PchipInterpolator
from torchvision.transforms.v2.functional import pil_to_tensor

from datamodules.files import read_rgb
from diffcodec.base.classical import PillowCodec
from diffcodec.codec import Codec, to_uint8
from diffcodec.metrics.psnr import psnr
from experiments.cli import compose_config


def curve(codec: Codec, paths: list) -> PchipInterpolator:
    """PSNR in dB over bpp, means over the images at each operating point."""
    rates, scores = [], []
    for point in codec.points:
        measured = []
        for path in paths:
            x = pil_to_tensor(read_rgb(path))[None]
            (stream,) = codec.compress(x / 255, point)
            bpp = 8 * len(stream) / x[0, 0].numel()
            measured.append((bpp, psnr(x, to_uint8(codec.decompress([stream], point)))))
        rate, score = np.mean(measured, axis=0)
        rates.append(rate)
        scores.append(score)
    return PchipInterpolator(rates, scores, extrapolate=False)


@pytest.mark.slow
def test_on_kodak_it_is_at_least_1_db_above_jpeg_between_0_2_and_1_bpp(shared):
    paths = sorted((shared / "data" / "kodak").glob("*.png"))
    codec = instantiate(compose_config(["codec=mbt2018_mean_vbr"]).codec).eval()
    jpeg = PillowCodec("JPEG", quality=[1, 5, 10, 15, 20, 30, 40, 50, 60, 70])
    rates = np.linspace(0.2, 1.0, 33)
    margin = curve(codec, paths)(rates) - curve(jpeg, paths)(rates)
    assert np.isfinite(margin).all()
    assert margin.min() >= 1.0, dict(zip(rates.round(3), margin.round(2), strict=True))
