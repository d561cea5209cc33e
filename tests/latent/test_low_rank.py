import pytest
import torch
from torch import nn

from diffcodec.latent.low_rank import LowRank, add_update, fit, has_updates, merge, split


def network(*, rank=None):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), nn.Linear(6, 5))
    if rank is not None:
        for layer in layers:
            add_update(layer, rank)
    return layers


X = torch.randn(2, 3, 6, 6)


def test_an_update_starts_at_zero_and_trains_alone():
    plain, updated = network(), network(rank=2)
    torch.testing.assert_close(updated(X), plain(X), rtol=0, atol=0)
    before = {k: v.clone() for k, v in updated.state_dict().items() if "original" in k}
    updated.requires_grad_(False)
    for module in updated.modules():
        if isinstance(module, LowRank):
            module.requires_grad_(True)
    optimizer = torch.optim.SGD([p for p in updated.parameters() if p.requires_grad], 0.1)
    for _ in range(2):
        updated(X).square().sum().backward()
        optimizer.step()
    assert not torch.allclose(updated(X), plain(X))
    assert all(torch.equal(updated.state_dict()[k], v) for k, v in before.items())


def test_the_rank_is_at_most_that_of_the_weight():
    assert LowRank(torch.zeros(8, 3, 3, 3), 100).A.shape == (8, 27)
    assert LowRank(torch.zeros(8, 3), 100).B.shape == (8, 3)


def test_split_and_merge():
    updated = network(rank=2)
    with torch.no_grad():
        for name, parameter in updated.named_parameters():
            if name.endswith(".B"):
                parameter.normal_()
    state = updated.state_dict()
    plain, updates = split(state)
    assert has_updates(state)
    assert not has_updates(plain)
    assert plain.keys() == network().state_dict().keys()
    assert len(updates) == 6
    merged = network()
    merged.load_state_dict(merge(plain, updates))
    torch.testing.assert_close(merged(X), updated(X))


def test_a_fit_of_full_rank_is_exact_and_of_a_low_one_the_best():
    target = {k: torch.randn_like(v) for k, v in network().state_dict().items()}
    for layer in "012":
        target[f"{layer}.bias"] = network().state_dict()[f"{layer}.bias"]
    exact, wanted = network(rank=100), network()
    exact.load_state_dict(fit(exact.state_dict(), target))
    wanted.load_state_dict(target)
    torch.testing.assert_close(exact(X), wanted(X), rtol=1e-4, atol=1e-4)
    low = network(rank=3)
    plain, updates = split(fit(low.state_dict(), target))
    error = (merge(plain, updates)["0.weight"] - target["0.weight"]).square().sum()
    difference = (target["0.weight"] - network().state_dict()["0.weight"]).flatten(1)
    least = torch.linalg.svdvals(difference)[3:].square().sum()
    assert float(error) == pytest.approx(float(least), rel=1e-4)
