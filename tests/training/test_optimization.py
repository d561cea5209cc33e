import pytest
import torch
from torch import nn

from diffcodec.training.optimization import annealed, clip_network, hyperprior_optimizer


class Module(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = nn.Linear(4, 4)
        self.prior = nn.Module()
        self.prior.quantiles = nn.Parameter(torch.ones(3))
        self.fixed = nn.Parameter(torch.ones(1), requires_grad=False)


def test_two_groups_with_their_own_learning_rates_anneal_to_zero():
    module = Module()
    out = hyperprior_optimizer(module, lr=0.1, aux_lr=0.5, num_steps=10)
    optimizer, scheduler = out["optimizer"], out["lr_scheduler"]["scheduler"]
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 1]
    assert optimizer.param_groups[1]["params"][0] is module.prior.quantiles
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]
    for _ in range(10):
        optimizer.step()
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0, 0], abs=1e-9)


def test_an_endless_run_keeps_its_learning_rate():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.3)
    scheduler = annealed(float("inf"))(optimizer)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.3


def test_only_the_network_is_clipped():
    module = Module()
    optimizer = hyperprior_optimizer(module, lr=0.1, aux_lr=0.5, num_steps=10)["optimizer"]
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    clip_network(optimizer, 1.0)
    network = torch.cat([p.grad.flatten() for p in module.network.parameters()])
    assert network.norm() == pytest.approx(1.0, rel=1e-4)
    assert torch.equal(module.prior.quantiles.grad, torch.full((3,), 100.0))
