import pytest

from diffcodec.metrics.ms_ssim import ms_ssim


def test_ms_ssim(pair):
    x, x_hat = pair
    assert ms_ssim(x, x) == pytest.approx(1)
    assert 0.9 < ms_ssim(x, x_hat) < 1
    assert ms_ssim(x[:, :160], x_hat[:, :160]) is None
    assert ms_ssim(x[:, :161], x_hat[:, :161]) is not None
