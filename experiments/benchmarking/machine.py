"""Speed of the machine: clock, memory, matrix products."""

import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

MIB = 1 << 20
PEAK_SIZE = {"cpu": 1024, "cuda": 8192}  # side of the matrices whose product is timed
PEAK_REPETITIONS = 5
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def clock_of(device: torch.device) -> Callable[[], float]:
    """A clock in seconds that synchronizes with the device."""

    def clock() -> float:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter()

    return clock


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product, best of several."""
    size = PEAK_SIZE.get(device.type, 2048)
    a = torch.rand(size, size, device=device).to(dtype)
    clock = clock_of(device)
    best = float("inf")
    for _ in range(PEAK_REPETITIONS + 1):
        start = clock()
        _ = a @ a
        best = min(best, clock() - start)
    return 2 * size**3 / best


class Memory:
    """Peak memory during a context: `mib`, None if the system does not report it."""

    mib: float | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Memory]:
    """Peak memory: allocated tensors on a GPU, the resident process on a CPU (Linux)."""
    memory = Memory()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield memory
        memory.mib = torch.cuda.max_memory_allocated(device) / MIB
        return
    known = _forget_peak()
    yield memory
    if known:
        memory.mib = resident_peak()


def describe(device: torch.device) -> dict[str, Any]:
    """Names and versions that times depend on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "device": device.type,
        "device_name": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _forget_peak() -> bool:
    try:
        _CLEAR.write_text("5")  # resets the high-water mark of this process
    except OSError:
        return False
    return True


def resident_peak() -> float | None:
    """Peak resident memory of this process in MiB, or None if unknown.

    `resource.getrusage` starts with the peak of the parent process instead.
    """
    try:
        match = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
    except OSError:
        return None
    return int(match[1]) / 1024 if match else None


def _cpu_name() -> str:
    try:
        match = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        match = None
    return match[1] if match else platform.processor()
