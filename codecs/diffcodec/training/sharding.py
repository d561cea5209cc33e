"""Sharding of parameters, gradients and optimizer states over processes (FSDP2)."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method


def shard(
    module: nn.Module, mesh: Any, *, units: Iterable[nn.Module], methods: Sequence[str]
) -> None:
    """Let every process keep its share of a module's parameters alone.

    What a unit needs is gathered while it computes, and freed after. All else that the module has
    is gathered as long as one of its methods runs. Frozen parameters are also sharded.

    Args:
        module: on which the training step calls `methods`, and nothing else that computes.
        mesh: `torch.distributed.DeviceMesh` of one dimension.
        units: modules inside it that are called themselves, inner ones before outer ones.
        methods: names of methods of `module`.
    """
    if isinstance(module, FSDPModule):
        return  # Lightning asks again at each stage
    for unit in units:
        fully_shard(unit, mesh=mesh)
    fully_shard(module, mesh=mesh)
    for name in methods:
        register_fsdp_forward_method(module, name)
