"""Gathering of Python objects from all processes, of any size and number per process."""

from functools import cache
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


def gather_all(items: list[T]) -> list[T]:
    """Gather the items of all processes on every process, in order of rank."""
    if not _distributed():
        return items
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, items, group=_cpu_group())
    return [item for part in parts for item in part]


def gather_to_first(items: list[T]) -> list[T]:
    """Gather the items of all processes on rank 0; other ranks get an empty list."""
    if not _distributed():
        return items
    first = dist.get_rank() == 0
    parts: list[Any] | None = [None] * dist.get_world_size() if first else None
    dist.gather_object(items, parts, dst=0, group=_cpu_group())
    return [item for part in parts or [] for item in part]


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@cache
def _cpu_group() -> Any:
    # NCCL would send pickles through GPU memory; gloo keeps them on the host.
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
