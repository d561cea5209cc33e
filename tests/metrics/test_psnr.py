import math

import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from diffcodec.metrics.psnr import psnr


def test_psnr_agrees_with_scikit_image(pair):
    expected = peak_signal_noise_ratio(pair[0].numpy(), pair[1].numpy())
    assert psnr(*pair) == pytest.approx(expected, rel=1e-12)


def test_psnr_in_closed_form():
    x = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    assert psnr(x, x + 1) == pytest.approx(20 * math.log10(255))
    assert psnr(x, x) == math.inf
