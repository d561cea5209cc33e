"""Splits the time of coding into networks, entropy coding and the rest."""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks

NETWORK, ENTROPY = "network", "entropy"
# Functions of this library, by the name under which its modules import them.
ENTROPY_FUNCTIONS = {
    "diffcodec.coding.entropy": ("encode_indices", "decode_indices", "encode_text", "decode_text"),
    "diffcodec.coding.rans": ("rans_encode", "rans_decode"),
}
# Methods; a raster scan alternates between network and coder, and DiffC's channel simulation and
# DDCM's codebooks are what entropy coding is elsewhere.
ENTROPY_METHODS: dict[str, dict[str, tuple[str, ...]]] = {
    "diffcodec.coding.rans": {"RansReader": ("read",)},
    "diffcodec.base.context_models": {"RasterScan": ("__call__",)},
    "diffcodec.diffc.channel": {"Channel": ("encode", "decode")},
    "diffcodec.ddcm.codebook": {"Codebook": ("encode", "decode", "write", "read")},
}


class Stopwatch:
    """Seconds per part; the time of an inner part is not counted for the outer one.

    Args:
        clock: seconds, after device synchronization.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds: dict[str, float] = {}
        self._clock = clock
        self._stack: list[str] = []
        self._since = 0.0

    def enter(self, part: str) -> None:
        """Start a part."""
        self._switch(part)
        self._stack.append(part)

    def leave(self) -> None:
        """End the innermost part."""
        ended = self._stack.pop()
        outer = self._stack[-1] if self._stack else None
        if outer != ended:
            self._add(ended)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part that lasts as long as the context."""
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    def _switch(self, part: str) -> None:
        current = self._stack[-1] if self._stack else None
        if current != part:  # the clock synchronizes: only once for nested layers
            self._add(current)

    def _add(self, part: str | None) -> None:
        now = self._clock()
        if part is not None:
            self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now


class Instruments:
    """Reports calls of networks and entropy coders to a stopwatch while it is watching.

    Networks compiled by `torch.compile` are seen only if this object was created before: hooks
    would break compiled code, so a compiled function counts as one call.
    """

    def __init__(self) -> None:
        self._watch: Stopwatch | None = None
        self._handles: list[Any] = []
        self._compile = torch.compile
        torch.compile = self._timed_compile

    def close(self) -> None:
        """Restore `torch.compile`."""
        torch.compile = self._compile

    @contextmanager
    def watching(self, watch: Stopwatch) -> Iterator[None]:
        """Report to this stopwatch."""
        undo = [*_patch_functions(watch), *_patch_methods(watch)]
        self._watch = watch
        self._hook()
        try:
            yield
        finally:
            self._unhook()
            self._watch = None
            for owner, name, original in undo:
                setattr(owner, name, original)

    def _hook(self) -> None:
        watch = self._watch
        assert watch is not None

        def before(module: nn.Module, inputs: Any) -> None:
            watch.enter(NETWORK)

        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            watch.leave()

        self._handles = [
            hooks.register_module_forward_pre_hook(before),
            hooks.register_module_forward_hook(after, always_call=True),
        ]

    def _unhook(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _timed_compile(self, *args: Any, **options: Any) -> Any:
        compiled = self._compile(*args, **options)
        if isinstance(compiled, nn.Module):
            return compiled  # its calls bypass the hooks

        @functools.wraps(compiled)
        def call(*inputs: Any, **named: Any) -> Any:
            watch = self._watch
            if watch is None:
                return compiled(*inputs, **named)
            self._unhook()
            try:
                with watch.part(NETWORK):
                    return compiled(*inputs, **named)
            finally:
                self._hook()

        return call


def _patch_functions(watch: Stopwatch) -> list[tuple[Any, str, Any]]:
    """Wrap the library's entropy coders wherever they were imported; returns the undo function."""
    wrapped = {}
    for owner, names in ENTROPY_FUNCTIONS.items():
        for name in names:
            original = getattr(import_module(owner), name)
            wrapped[original] = _timed(original, watch)
    undo = []
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] != "diffcodec" or name in ENTROPY_FUNCTIONS:
            continue
        for key, value in list(vars(module).items()):
            ours = callable(value) and getattr(value, "__module__", "") in ENTROPY_FUNCTIONS
            if ours and value in wrapped:
                undo.append((module, key, value))
                setattr(module, key, wrapped[value])
    return undo


def _patch_methods(watch: Stopwatch) -> list[tuple[Any, str, Any]]:
    undo = []
    for module, classes in ENTROPY_METHODS.items():
        if module not in sys.modules:
            continue
        for class_name, methods in classes.items():
            owner = getattr(sys.modules[module], class_name)
            for name in methods:
                original = vars(owner)[name]
                undo.append((owner, name, original))
                setattr(owner, name, _timed(original, watch))
    return undo


def _timed(function: Callable[..., Any], watch: Stopwatch) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:
        with watch.part(ENTROPY):
            return function(*args, **named)

    return call
