import math

import pytest
import torch
from skimage import data
from skimage.metrics import peak_signal_noise_ratio
from torch import nn

from callbacks.image_metrics import load_lpips, lpips_distance, ms_ssim, psnr


@pytest.fixture
def pair():
    x = torch.from_numpy(data.chelsea()).permute(2, 0, 1)
    noise = torch.randint(-9, 10, x.shape, generator=torch.Generator().manual_seed(0))
    return x, (x.int() + noise).clamp(0, 255).byte()


def test_psnr_agrees_with_scikit_image(pair):
    expected = peak_signal_noise_ratio(pair[0].numpy(), pair[1].numpy())
    assert psnr(*pair) == pytest.approx(expected, rel=1e-12)


def test_psnr_in_closed_form():
    x = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    assert psnr(x, x + 1) == pytest.approx(20 * math.log10(255))
    assert psnr(x, x) == math.inf


def test_ms_ssim(pair):
    x, x_hat = pair
    assert ms_ssim(x, x) == pytest.approx(1)
    assert 0.9 < ms_ssim(x, x_hat) < 1
    assert ms_ssim(x[:, :160], x_hat[:, :160]) is None
    assert ms_ssim(x[:, :161], x_hat[:, :161]) is not None


def test_lpips_from_a_file_of_torchvision_weights(pair, tmp_path):
    # A random AlexNet in torchvision's layout: LPIPS must be that of this very network.
    from torchvision.models import alexnet

    torch.manual_seed(0)
    backbone = alexnet()
    torch.save(backbone.state_dict(), tmp_path / "alexnet.pth")
    model = load_lpips("alex", str(tmp_path / "alexnet.pth"))
    first = next(p for n, p in model.net.named_parameters() if n == "slice1.0.weight")
    assert torch.equal(first, backbone.features[0].weight)
    assert not any(p.requires_grad for p in model.parameters())
    x, x_hat = pair
    assert lpips_distance(model, x, x) == 0
    assert lpips_distance(model, x, x_hat) > 0


def test_lpips_without_weights_says_what_is_missing(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="choose from"):
        load_lpips("resnet")
    with pytest.raises(ValueError, match="no weights for LPIPS"):
        load_lpips("alex", str(tmp_path / "missing.pth"))
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match="no weights for LPIPS"):
        load_lpips("alex", str(tmp_path / "other.pth"))
