"""Finds and checks the checkpoint of `ckpt_path=` before anything is trained or measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffcodec.weights.local_files import is_there, local_path

if TYPE_CHECKING:
    from torch import nn

LAST = "last"
_OF_TRAINING = ("state_dict", "optimizer_states", "lr_schedulers", "loops")


def find_checkpoint(ckpt_path: str | None, folder: Path) -> Path | None:
    """The checkpoint to resume from, or None for a fresh start.

    Args:
        ckpt_path: a file, or `last` for the newest one of this run, which need not exist.
        folder: of this run.

    Raises:
        ValueError: the file does not exist.
    """
    from callbacks.checkpoints import LAST as LAST_FILE
    from callbacks.checkpoints import PREVIOUS

    if ckpt_path is None:
        return None
    if ckpt_path == LAST:
        # Only the second exists if a run was killed between the two renames.
        own = [folder / "checkpoints" / name for name in (LAST_FILE, PREVIOUS)]
        return next((path for path in own if path.exists()), None)
    path = local_path(ckpt_path)
    if not is_there(path):
        raise ValueError(f"ckpt_path={ckpt_path} does not exist")
    return path


def check_resumable(path: Path, module: "nn.Module") -> None:
    """Check that training can resume from a checkpoint, without reading its tensors.

    Raises:
        ValueError: it is truncated, malicious, or of another model; if an older checkpoint beside
            it is intact, the message names it.
    """
    if path.is_dir():
        return  # sharded: one file per process, read by torch.distributed.checkpoint
    try:
        _check(path, module)
    except ValueError as error:
        from callbacks.checkpoints import PREVIOUS

        before = path.with_name(PREVIOUS)
        try:
            if path == before:
                raise
            _check(before, module)
        except (ValueError, OSError):
            raise error from None
        raise ValueError(
            f"{error}. The previous checkpoint is intact: ckpt_path={before}"
        ) from error


def _check(path: Path, module: "nn.Module") -> None:
    from diffcodec.weights.loading import read_checkpoint

    checkpoint = read_checkpoint(path, mmap=True)
    missing = [key for key in _OF_TRAINING if key not in checkpoint]
    if missing:
        raise ValueError(
            f"{path} is not a training checkpoint (it has no {missing[0]}): to start from its "
            "weights pass codec.weights=FILE"
        )
    state = checkpoint["state_dict"]
    if not isinstance(state, Mapping):
        raise ValueError(f"{path}: its state_dict is a {type(state).__name__}")
    differing = _differing(module, state)
    if differing:
        shown = ", ".join(sorted(differing)[:3])
        raise ValueError(
            f"{path} is not a checkpoint of this {type(module).__name__}: "
            f"{len(differing)} tensors differ, such as {shown}"
        )


def _differing(module: "nn.Module", state: Mapping[str, Any]) -> set[str]:
    """Names of tensors that only one of the two has, or that differ in shape."""
    from diffcodec.codec import Codec

    derived = module.derived_state() if isinstance(module, Codec) else set()
    own = {name: tensor.shape for name, tensor in module.state_dict().items()}
    given = {name: getattr(tensor, "shape", None) for name, tensor in state.items()}
    names = (own.keys() | given.keys()) - derived
    return {name for name in names if own.get(name) != given.get(name)}
