"""Tensors that say they are on `cuda:0` and are computed on the CPU, by CUDA's rules about devices.

An operation on tensors of two devices is refused, as CUDA refuses it, but for what CUDA lets mix:
numbers in tensors without dimensions, and indices on the CPU. So a tensor that was left behind is
found before the first run on a GPU.

It cannot show anything about kernels (what is not implemented there, rounding, non-determinism),
memory, speed, streams and synchronisation, several devices, or the backward pass, for which torch's
autograd engine wants a real device. Losses are computed without gradients.

`prepare` changes torch for good: use it in a process of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
_aten = torch.ops.aten
_TAKES_CPU_INDICES = {
    *(_aten.index.Tensor, _aten._unsafe_index.Tensor),
    *(_aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default),
}
_READS_A_NUMBER = {_aten._local_scalar_dense.default, _aten.equal.default}


class GpuTensor(Tensor):
    """A tensor on the simulated device; `held` is where its values are."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "GpuTensor":
        out: GpuTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=GPU,
        )
        out.held = held
        return out

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        """Values as numbers, which waits for the device and is allowed."""
        return self.held.tolist()

    def new_tensor(self, data: Any, *args: Any, device: Any = None, **options: Any) -> Tensor:
        """As of any tensor: on its own device unless another is named."""
        made = self.held.new_tensor(data, *args, **options)
        return made if device is not None and torch.device(device) == CPU else GpuTensor(made)

    def numpy(self, *args: Any, **options: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy: use Tensor.cpu() first")

    __array__ = numpy


class SimulatedCuda(TorchDispatchMode):
    """While it is active, `cuda` names the simulated device."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    named = kwargs.get("device")
    wanted = None if named is None else torch.device(named).type
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    on_gpu = [t for t in tensors if isinstance(t, GpuTensor)]
    if func is not _aten.copy_.default and wanted is None:
        _check_devices(func, args, tensors, on_gpu)
    there = {id(t.held): t for t in on_gpu}
    own = {**kwargs, "device": CPU} if wanted == "cuda" else dict(kwargs)
    plain_args, plain_kwargs = tree_map(_held, (tuple(args), own))
    result = func(*plain_args, **plain_kwargs)
    if func in _READS_A_NUMBER:
        return result
    if func is _aten.copy_.default:
        return args[0]
    is_on_gpu = wanted == "cuda" if wanted is not None else bool(on_gpu)

    def placed(value: Any) -> Any:
        if not isinstance(value, Tensor) or isinstance(value, GpuTensor):
            return value
        if id(value) in there:  # written in place
            return there[id(value)]
        return GpuTensor(value) if is_on_gpu else value

    return tree_map(placed, result)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, GpuTensor) else value


def _check_devices(
    func: Any, args: Sequence[Any], tensors: Sequence[Tensor], on_gpu: Sequence[Tensor]
) -> None:
    left = [t for t in tensors if not isinstance(t, GpuTensor) and t.dim() > 0]
    if not (on_gpu and left):
        return
    if func in _TAKES_CPU_INDICES and isinstance(args[0], GpuTensor):
        # Values that are put must be there; only the indices may be elsewhere.
        indices = {id(t) for t in tree_leaves(args[1]) if isinstance(t, Tensor)}
        left = [t for t in left if id(t) not in indices]
        if not left:
            return
    shapes = ", ".join(str(tuple(t.shape)) for t in left)
    raise RuntimeError(f"{func}: expected all tensors on cuda:0, found {shapes} on cpu")


def prepare() -> None:
    """Let torch believe that there is a device."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    torch._C._ensureCUDADeviceGuardSet()
    torch.cuda._lazy_init = lambda: None
    torch.cuda.synchronize = lambda *args, **options: None
    torch.backends.cudnn.enabled = False  # whose kernels the CPU does not have
    # For autocast, which else switches itself off.
    torch.cuda.is_bf16_supported = lambda *args, **options: True
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False
    torch.tensor, torch.as_tensor = _placing(torch.tensor), _placing(torch.as_tensor)


def _placing(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.tensor` copies numbers to its device below the dispatcher."""

    def made(data: Any, *args: Any, device: Any = None, **options: Any) -> Tensor:
        if isinstance(data, GpuTensor) and device is None:
            return make(data, *args, **options)
        out = make(data, *args, **options)
        return out if device is None or torch.device(device) == CPU else out.to(GPU)

    return made
