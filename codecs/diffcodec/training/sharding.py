"""Sharding of parameters, gradients and optimizer states over processes (FSDP2)."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method


def shard(
    module: nn.Module, mesh: Any, *, units: Iterable[nn.Module], methods: Sequence[str]
) -> None:
    """Shard the parameters of a module over all processes, frozen ones included.

    The parameters of a unit are gathered before it computes and freed afterwards. All other
    parameters of the module are gathered while one of its methods runs.

    Args:
        module: module of which the training step calls `methods` only.
        mesh: `torch.distributed.DeviceMesh` of one dimension.
        units: submodules that are called directly, inner ones before outer ones.
        methods: names of the methods of `module` that compute.
    """
    if isinstance(module, FSDPModule):
        return  # Lightning configures the model again at each stage
    for unit in units:
        fully_shard(unit, mesh=mesh)
    fully_shard(module, mesh=mesh)
    for name in methods:
        register_fsdp_forward_method(module, name)
