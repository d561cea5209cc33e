import lpips
import pytest
import torch

from diffcodec.perceptual import PerceptualLoss

REAL = lpips.LPIPS


def test_it_is_the_mean_distance_and_gradients_flow(monkeypatch):
    # LPIPS of a VGG16 with random weights: the pretrained ones are a download.
    monkeypatch.setattr(lpips, "LPIPS", lambda **o: REAL(**{**o, "pnet_rand": True}))
    torch.manual_seed(0)
    loss = PerceptualLoss("rho > 0", "rho=0")
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    y = (x * 0.5).requires_grad_()
    assert loss(x, x).item() == 0
    loss(y, x).backward()
    assert y.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in loss._network.parameters())


def test_missing_weights_name_the_setting(monkeypatch):
    def fail(**_):
        raise OSError("no route to host")

    monkeypatch.setattr(lpips, "LPIPS", fail)
    with pytest.raises(ValueError, match=r"rho > 0 needs LPIPS.*no route.*train with rho=0"):
        PerceptualLoss("rho > 0", "rho=0")


@pytest.mark.network
def test_real_weights():
    loss = PerceptualLoss("rho > 0", "rho=0")
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    assert loss(x, x).item() == 0
    assert loss(x, -x).item() > 0.1
