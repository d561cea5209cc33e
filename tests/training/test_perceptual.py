import lpips
import pytest
import torch

from diffcodec.training.perceptual import PerceptualLoss

REAL = lpips.LPIPS


def fail(**_):
    raise OSError("no route to host")


@pytest.fixture
def pair():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    return x, (x * 0.5).requires_grad_()


@pytest.mark.parametrize("choice", ["vgg", "st-alex", "st-vgg"])
def test_it_is_the_mean_distance_and_gradients_flow(monkeypatch, choice, pair):
    # LPIPS of a VGG16 with random weights: the pretrained ones are a download.
    monkeypatch.setattr(lpips, "LPIPS", lambda **o: REAL(**{**o, "pnet_rand": True}))
    loss = PerceptualLoss(choice, wanted_by="rho > 0")
    x, y = pair
    assert loss(x, x).item() == 0
    single = torch.stack([loss(b[None], a[None]) for a, b in zip(x, y, strict=True)])
    torch.testing.assert_close(loss(y, x), single.mean(), rtol=1e-4, atol=1e-6)
    loss(y, x).backward()
    assert y.grad.isfinite().all()
    assert y.grad.abs().sum() > 0


def test_several_take_turns(pair):
    x, y = pair
    values = [PerceptualLoss(name, wanted_by="rho > 0")(y, x) for name in ("st-alex", "st-vgg")]
    both = PerceptualLoss("st-alex+st-vgg", wanted_by="rho > 0")
    for value in values * 2:
        torch.testing.assert_close(both(y, x), value)


def test_without_a_choice_it_is_lpips_where_its_weights_are_and_st_lpips_elsewhere(
    monkeypatch, caplog
):
    caplog.set_level("INFO")
    monkeypatch.setattr(lpips, "LPIPS", lambda **o: REAL(**{**o, "pnet_rand": True}))
    assert PerceptualLoss(wanted_by="rho > 0").name == "vgg"
    monkeypatch.setattr(lpips, "LPIPS", fail)
    assert PerceptualLoss(wanted_by="rho > 0").name == "st-vgg"
    assert "rho > 0 trains with the perceptual loss st-vgg" in caplog.text


def test_unknown_choices_and_missing_weights_name_the_setting(monkeypatch):
    with pytest.raises(ValueError, match=r"unknown perceptual loss 'lpips', choose from"):
        PerceptualLoss("lpips", wanted_by="rho > 0")
    monkeypatch.setattr(lpips, "LPIPS", fail)
    with pytest.raises(ValueError, match=r"rho > 0 needs .*'vgg': .*no route.*with perceptual="):
        PerceptualLoss("vgg", wanted_by="rho > 0")
    monkeypatch.setattr(lpips, "LPIPS", lambda **o: REAL(**{**o, "pnet_rand": True}))
    with pytest.raises(ValueError, match=r"no weights at 'missing\.pth'"):
        PerceptualLoss(wanted_by="rho > 0", vgg_weights="missing.pth")


@pytest.mark.network
def test_real_weights():
    loss = PerceptualLoss("vgg", wanted_by="rho > 0")
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    assert loss(x, x).item() == 0
    assert loss(x, -x).item() > 0.1
