"""Reading of checkpoints, and strict loading."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffcodec.weights.sources import find_file

_PARALLEL = "module."


def load_checkpoint(source: str) -> dict[str, Any]:
    """Load a checkpoint onto the CPU.

    Args:
        source: source of the checkpoint, see `diffcodec.weights`.

    Raises:
        ValueError: the source has an unknown form, does not exist or cannot be read, or its
            checksum is wrong.
    """
    path = find_file(source)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    return read_checkpoint(path)


def read_checkpoint(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """Read a file written by `torch.save` onto the CPU, without executing code in it.

    Besides tensors, it may contain numbers, including NumPy's, strings and `argparse.Namespace`.

    Args:
        path: path of the file.
        mmap: read tensors when they are used; truncated files are still detected.

    Raises:
        ValueError: the file is truncated, has another format, or contains objects other than
            tensors, numbers and strings.
    """
    try:
        with torch.serialization.safe_globals(_plain_types()):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch raises many types for unsafe, truncated and foreign files
        reason = _reason(error)
        if "GLOBAL" in reason or "class" in reason:
            reason += "; on the machine that wrote it, save only torch.load(FILE)['state_dict']"
        raise ValueError(
            f"{path} is not a complete checkpoint of plain tensors: {reason}"
        ) from error
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"{path} holds a {type(checkpoint).__name__}, expected a state dict")
    return dict(checkpoint)


def _plain_types() -> list[Any]:
    """Types other than tensors that checkpoints contain and that hold only numbers and text."""
    import argparse

    import numpy as np
    from numpy._core.multiarray import scalar  # type: ignore[attr-defined]

    kinds = [*"?bhilqBHILQefd"]  # booleans, integers and floating point, of all sizes
    dtypes = {type(np.dtype(kind)) for kind in kinds}
    older = (scalar, "numpy.core.multiarray.scalar")  # its name in files from NumPy 1
    return [argparse.Namespace, np.dtype, scalar, older, *dtypes]


def state_dict_of(checkpoint: Mapping[str, Any], *, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a checkpoint.

    Args:
        checkpoint: state dict, or a mapping that has it as `state_dict`. The prefix `module.` of
            data-parallel wrappers is removed.
        prefix: select and strip keys with this prefix, if there are any.
    """
    state = checkpoint.get("state_dict", checkpoint)
    if state and all(str(key).startswith(_PARALLEL) for key in state):
        state = {str(key).removeprefix(_PARALLEL): value for key, value in state.items()}
    if prefix and any(key.startswith(prefix) for key in state):
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return {k: v for k, v in state.items() if isinstance(v, Tensor)}


def remap(
    state: Mapping[str, Tensor], table: Sequence[tuple[str, str | None]]
) -> dict[str, Tensor]:
    """Rename keys by the first (regular expression, replacement) that matches the start of a key.

    A replacement of None drops the key. Keys without a match are unchanged.
    """
    out = {}
    for key, value in state.items():
        for pattern, replacement in table:
            match = re.match(pattern, key)
            if match:
                if replacement is not None:
                    out[match.expand(replacement) + key[match.end() :]] = value
                break
        else:
            out[key] = value
    return out


def load_strict(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load a state dict with `strict=True`; tensors are converted to the module's dtype.

    Raises:
        ValueError: keys are missing or unexpected, or shapes differ; the first few are named.
    """
    try:
        module.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        message = " ".join(str(error).split())
        shown = message if len(message) < 1000 else message[:1000] + " …"
        raise ValueError(f"weights from {source} do not fit: {shown}") from error


def _reason(error: Exception) -> str:
    """The reason of an error in one line, without torch's advice to trust the file."""
    refused = re.search(r"WeightsUnpickler error: ([^\n]*)", str(error))
    text = refused.group(1) if refused else str(error).strip().partition("\n")[0]
    return text.partition(". Please use")[0] or type(error).__name__
