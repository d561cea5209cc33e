from types import SimpleNamespace

import torch

from callbacks.processes import Processes


def drawn(rank: int) -> torch.Tensor:
    torch.manual_seed(5)
    Processes().on_train_start(SimpleNamespace(global_rank=rank), None)
    return torch.randn(4)


def test_each_process_draws_noise_of_its_own_and_the_first_as_it_did_alone():
    torch.manual_seed(5)
    alone = torch.randn(4)
    assert torch.equal(drawn(0), alone)
    draws = [tuple(drawn(rank).tolist()) for rank in range(8)]
    assert len(set(draws)) == 8
    assert torch.equal(drawn(3), drawn(3))
