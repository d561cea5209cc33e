"""A trained model as a folder: `config.json` and `model.safetensors`.

Weights of parts that are frozen and can be had elsewhere (they ship, or are on the hub) are named
in the config and not written again.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from diffcodec.weights.configuration import (
    TARGET,
    build,
    call,
    config_of,
    is_by_reference,
    is_configured,
)
from diffcodec.weights.loading import load_checkpoint, load_strict, state_dict_of
from diffcodec.weights.local_files import is_there, local_path
from diffcodec.weights.sources import (
    CONFIG_FILE,
    SOURCES,
    WEIGHTS_FILE,
    find_config,
    has_weights,
    shipped,
)

CARD = """---
library_name: diffcodec
pipeline_tag: image-to-image
---
`{target}`, an image codec of diffcodec:

```python
import diffcodec

codec = diffcodec.load("hf://{repository}")
streams = codec.compress(x)  # x (B, 3, H, W) in [0, 1]
x_hat = codec.decompress(streams)
```
"""


class SavedModel:
    """A module that can be saved as a model folder and uploaded to the hub."""

    only_by_source: bool = False
    """Whether its tensors are never saved, because its networks are loaded on demand."""

    def derived_state(self) -> set[str]:
        """Names of tensors that are derived from the weights or the arguments."""
        return set()

    def save(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> Path:
        """Write the model as a folder that `diffcodec.load` and `weights=` take.

        `config.json` contains the constructor's arguments, `model.safetensors` the tensors. Frozen
        parts that are available elsewhere are stored by their source only.

        Args:
            folder: is made where there is none.
            dtype: of the tensors, as in `torch.float16`; None keeps them as they are, and with them
                the streams that a codec reads.

        Returns:
            The folder.

        Raises:
            ValueError: an argument cannot be written.
        """
        return save_model(self._module(), folder, dtype=dtype)

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool | None = None,
        dtype: torch.dtype | None = None,
        message: str = "Upload the codec",
    ) -> str:
        """Upload that folder to a repository of the hub, which is made if there is none.

        Args:
            repository: `owner/repo`.
            private: of a repository that is made; None is the owner's default.
            dtype: as of `save`.
            message: of the commit.

        Returns:
            The source for `diffcodec.load`.

        Raises:
            ValueError: the model is built on something that only this machine has.
        """
        return push_model(self._module(), repository, private=private, dtype=dtype, message=message)

    def load_weights(self, source: str) -> None:
        """Load what `save` wrote.

        Args:
            source: see `diffcodec.weights`.

        Raises:
            ValueError: it cannot be had, or does not fit.
        """
        load_saved(self._module(), state_dict_of(load_checkpoint(source)), source=source)

    def _module(self) -> nn.Module:
        assert isinstance(self, nn.Module)
        return self


def save_model(
    module: nn.Module,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write a module that remembers its arguments as a folder.

    Args:
        module: a codec, or a part of one.
        folder: is made where there is none; the two files in it are replaced.
        dtype: of the floating-point tensors that are written; None keeps them as they are. Half
            the precision is half the file, and another fingerprint.
        state: what `saved_state` gives, where that was asked for already.

    Returns:
        The folder.

    Raises:
        ValueError: an argument cannot be written.
    """
    from safetensors.torch import save

    config = config_of(module)
    tensors = {
        name: (t.to(dtype) if dtype and t.is_floating_point() else t).contiguous().cpu()
        for name, t in (saved_state(module) if state is None else state).items()
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / WEIGHTS_FILE
    if tensors:
        config |= {"weights": None} if "weights" in config else {}
        # Not `save_file`, whose files only their owner may read: others start from them.
        partial = path.with_name(f"{path.name}.part")
        partial.write_bytes(save(tensors))
        partial.replace(path)
    else:
        path.unlink(missing_ok=True)
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    return folder


def load_model(source: str, **overrides: Any) -> Any:
    """Build what a folder holds, or what ships by that name, with its weights.

    Args:
        source: see `diffcodec.weights`.
        overrides: arguments in place of those that the config has.

    Raises:
        ValueError: there is no such folder, or an argument that it does not take.
    """
    config = find_config(source)
    if config is None or TARGET not in config:
        raise ValueError(
            f"no model at {source!r}: it has no {CONFIG_FILE}. Give {SOURCES}; what ships is "
            f"{', '.join(sorted(shipped()))}"
        )
    arguments = {k: v for k, v in config.items() if k not in (TARGET, *overrides)}
    if has_weights(source):
        arguments["weights"] = source
    return call(config[TARGET], build(arguments) | overrides)


def push_model(
    module: nn.Module,
    repository: str,
    *,
    private: bool | None = None,
    dtype: torch.dtype | None = None,
    message: str = "Upload the model",
) -> str:
    """Upload a module as such a folder to a repository of the hub, which is made if need be.

    Args:
        module, dtype: as of `save_model`.
        repository: `owner/repo`.
        private: of a repository that is made; None is the owner's default.
        message: of the commit.

    Returns:
        The source to load it from.

    Raises:
        ValueError: it is built on something that only this machine has.
    """
    from huggingface_hub import HfApi

    config = config_of(module)
    if local := {name: path for name, path in _paths(config) if is_there(local_path(path))}:
        told = ", ".join(f"{name}={path}" for name, path in local.items())
        raise ValueError(f"only this machine has what the model is built on: {told}")
    hub = HfApi()
    hub.create_repo(repository, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save_model(module, folder, dtype=dtype)
        card = CARD.format(target=config[TARGET], repository=repository)
        (Path(folder) / "README.md").write_text(card, encoding="utf-8")
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    return f"hf://{repository}"


def saved_state(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that a folder of a module holds.

    That is the state dict without what is computed from it, and without frozen tensors of parts
    whose weights can be had elsewhere. Where processes share the tensors out, all must call it.
    """
    return {
        name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        for name, tensor in _saved_state(module).items()
    }


def _saved_state(module: nn.Module) -> dict[str, Tensor]:
    if getattr(module, "only_by_source", False):
        return {}
    derived = module.derived_state() if hasattr(module, "derived_state") else set()  # type: ignore[operator]
    state = {k: v for k, v in module.state_dict().items() if k not in derived}
    for name, part in _configured_parts(module):
        kept = _saved_state(part)
        if is_by_reference(part):
            kept = {n: kept[n] for n, p in part.named_parameters() if p.requires_grad and n in kept}
        state = {
            key: tensor
            for key, tensor in state.items()
            if not key.startswith(f"{name}.") or key.removeprefix(f"{name}.") in kept
        }
    return state


def load_saved(module: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Load what `saved_state` gave; the rest stays as the module has it.

    Raises:
        ValueError: keys are missing or left over, or shapes differ; the first few are named.
    """
    saved = saved_state(module)
    rest = {k: v for k, v in module.state_dict().items() if k not in saved}
    load_strict(module, {**rest, **state}, source=source)


def _configured_parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The outermost submodules that remember their arguments, by their names."""
    for name, child in module.named_children():
        if is_configured(child):
            yield f"{prefix}{name}", child
        else:
            yield from _configured_parts(child, f"{prefix}{name}.")


def _paths(config: Any, name: str = "codec") -> Iterator[tuple[str, str]]:
    """The strings of a config that may be paths, and the keys that they stand under."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from _paths(value, f"{name}.{key}")
    elif isinstance(config, list):
        for value in config:
            yield from _paths(value, name)
    elif isinstance(config, str) and "/" in config and not config.startswith("hf://"):
        yield name, config
