"""Model folders: a trained model as `config.json` and `model.safetensors`.

Weights of frozen parts that are publicly available (shipped or on the hub) are not written; the
config contains their sources.
"""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
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
        """Write the model as a folder that `diffcodec.load` and `weights=` accept.

        `config.json` contains the constructor's arguments, `model.safetensors` the tensors. Frozen
        parts that are available elsewhere are stored by their source only.

        Args:
            folder: target folder, created if missing.
            dtype: dtype of the saved tensors, such as `torch.float16`; None keeps their dtypes. A
                codec with converted weights cannot decode streams of the original.

        Returns:
            The folder.

        Raises:
            ValueError: an argument cannot be written to the config.
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
        """Upload the folder that `save` writes to a hub repository, which is created if missing.

        Args:
            repository: repository, `owner/repo`.
            private: whether a new repository is private; None selects the owner's default.
            dtype: dtype of the saved tensors, see `save`.
            message: commit message.

        Returns:
            The source for `diffcodec.load`.

        Raises:
            ValueError: the config refers to local files.
        """
        return push_model(self._module(), repository, private=private, dtype=dtype, message=message)

    def load_weights(self, source: str) -> None:
        """Load weights written by `save`.

        Args:
            source: source of the weights, see `diffcodec.weights`.

        Raises:
            ValueError: the weights cannot be loaded, or do not fit.
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
    """Write a module with recorded arguments as a model folder.

    Args:
        module: codec, or a part of one.
        folder: target folder, created if missing; the two files in it are replaced.
        dtype: dtype of the saved floating-point tensors; None keeps their dtypes. Half precision
            halves the file and changes the fingerprint.
        state: result of `saved_state`, if it was computed before.

    Returns:
        The folder.

    Raises:
        ValueError: an argument cannot be written to the config.
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
        # `save_file` would create files that only their owner can read.
        partial = path.with_name(f"{path.name}.part")
        partial.write_bytes(save(tensors))
        partial.replace(path)
    else:
        path.unlink(missing_ok=True)
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    return folder


def load_model(source: str, **overrides: Any) -> Any:
    """Build the model of a model folder or a shipped name, with its weights.

    Args:
        source: source of the model, see `diffcodec.weights`.
        overrides: arguments that replace those of the config.

    Raises:
        ValueError: there is no model at the source, or an argument is unknown or invalid.
    """
    config = find_config(source)
    if config is None or TARGET not in config:
        raise ValueError(
            f"no model at {source!r}: it has no {CONFIG_FILE}. Pass {SOURCES}; shipped models: "
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
    """Upload a module as a model folder to a hub repository, which is created if missing.

    Args:
        module, dtype: see `save_model`.
        repository: repository, `owner/repo`.
        private: whether a new repository is private; None selects the owner's default.
        message: commit message.

    Returns:
        The source to load the module from.

    Raises:
        ValueError: the config refers to local files.
    """
    from huggingface_hub import HfApi

    config = config_of(module)
    if local := {name: path for name, path in _paths(config) if is_there(local_path(path))}:
        told = ", ".join(f"{name}={path}" for name, path in local.items())
        raise ValueError(f"the model depends on files of this machine: {told}")
    hub = HfApi()
    hub.create_repo(repository, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save_model(module, folder, dtype=dtype)
        card = CARD.format(target=config[TARGET], repository=repository)
        (Path(folder) / "README.md").write_text(card, encoding="utf-8")
        hub.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    return f"hf://{repository}"


def saved_state(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a module's model folder.

    These are the state dict without derived tensors, and without frozen tensors of parts whose
    weights are publicly available. If the tensors are sharded, all processes must call it.
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


def load_saved(
    module: nn.Module, state: Mapping[str, Tensor], *, source: str, optional: Sequence[str] = ()
) -> None:
    """Load the result of `saved_state`; the module keeps its other tensors.

    Args:
        module: module to load into.
        state: tensors to load.
        source: their source, for errors.
        optional: prefixes of parts that keep their tensors if the state has none of them.

    Raises:
        ValueError: keys are missing or unexpected, or shapes differ; the first few are named.
    """
    saved = saved_state(module)
    absent = tuple(part for part in optional if not any(k.startswith(part) for k in state))
    own = module.state_dict().items()
    rest = {k: v for k, v in own if k not in saved or k.startswith(absent)}
    load_strict(module, {**rest, **state}, source=source)


def _configured_parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The outermost submodules with recorded arguments, and their names."""
    for name, child in module.named_children():
        if is_configured(child):
            yield f"{prefix}{name}", child
        else:
            yield from _configured_parts(child, f"{prefix}{name}.")


def _paths(config: Any, name: str = "codec") -> Iterator[tuple[str, str]]:
    """Keys and values of all strings in a config that may be paths."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            yield from _paths(value, f"{name}.{key}")
    elif isinstance(config, list):
        for value in config:
            yield from _paths(value, name)
    elif isinstance(config, str) and "/" in config and not config.startswith("hf://"):
        yield name, config
