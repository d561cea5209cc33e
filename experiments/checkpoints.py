"""What `ckpt_path=` names: found and checked before anything is trained or measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffcodec.weights.local_files import is_there, local_path

if TYPE_CHECKING:
    from torch import nn

LAST = "last"
_OF_TRAINING = ("state_dict", "optimizer_states", "lr_schedulers", "loops")


def find_checkpoint(ckpt_path: str | None, folder: Path) -> Path | None:
    """The checkpoint to go on from, or None for a fresh start.

    Args:
        ckpt_path: a file, or `last`: the newest one of this run, which a run that was just started
            does not have.
        folder: of this run.

    Raises:
        ValueError: there is no such file.
    """
    from callbacks.checkpoints import LAST as LAST_FILE
    from callbacks.checkpoints import PREVIOUS

    if ckpt_path is None:
        return None
    if ckpt_path == LAST:
        # The second is all there is where a run was killed while it renamed them.
        own = [folder / "checkpoints" / name for name in (LAST_FILE, PREVIOUS)]
        return next((path for path in own if path.exists()), None)
    path = local_path(ckpt_path)
    if not is_there(path):
        raise ValueError(f"ckpt_path={ckpt_path}: there is no such file")
    return path


def check_resumable(path: Path, module: "nn.Module") -> None:
    """See that training can go on from a checkpoint; its tensors are not read.

    Raises:
        ValueError: it is cut off, holds other things than tensors, or is of something else; where
            there is an older one beside it that is better, the message names it.
    """
    if path.is_dir():
        return  # sharded: read by torch.distributed.checkpoint, a file per process
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
    """Names of tensors that only one of the two has, or that have other shapes."""
    from diffcodec.codec import Codec

    derived = module.derived_state() if isinstance(module, Codec) else set()
    own = {name: tensor.shape for name, tensor in module.state_dict().items()}
    given = {name: getattr(tensor, "shape", None) for name, tensor in state.items()}
    names = (own.keys() | given.keys()) - derived
    return {name for name in names if own.get(name) != given.get(name)}
