import pytest
import torch
from torch import nn

from diffcodec.metrics.networks.lpips import Lpips


def test_lpips_from_a_file_of_torchvision_weights(pair, tmp_path):
    # A random AlexNet in torchvision's layout: LPIPS must be that of this very network.
    from torchvision.models import alexnet

    torch.manual_seed(0)
    backbone = alexnet()
    torch.save(backbone.state_dict(), tmp_path / "alexnet.pth")
    model = Lpips("alex", str(tmp_path / "alexnet.pth"))
    first = next(p for n, p in model.model.net.named_parameters() if n == "slice1.0.weight")
    assert torch.equal(first, backbone.features[0].weight)
    assert not any(p.requires_grad for p in model.parameters())
    x, x_hat = pair
    assert model(x, x) == 0
    assert model(x, x_hat) > 0
    assert model(x[:, :31], x_hat[:, :31]) is None


def test_lpips_without_weights_says_what_is_missing(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="choose from"):
        Lpips("resnet")
    with pytest.raises(ValueError, match="no weights for LPIPS"):
        Lpips("alex", str(tmp_path / "missing.pth"))
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match="no weights for LPIPS"):
        Lpips("alex", str(tmp_path / "other.pth"))
