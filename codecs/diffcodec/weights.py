"""Loading weights: from the package, a file, the hub, or a URL with its checksum.

    package:mbt2018_mean_vbr.safetensors      shipped beside the method's code
    path/to/model.safetensors (.pt, .pth, …)  a file
    hf://owner/repo/path/in/repo.safetensors  a file of a hub repository, `@revision` after repo
    https://host/file.pth#sha256=…            a download, checked against its sha256

Pickled checkpoints are read with `weights_only=True`. Keys are renamed by an explicit table, and
loaded with `strict=True`.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SOURCES = "package:NAME, a file, hf://owner/repo[@revision]/file or https://…#sha256=…"


def load_checkpoint(source: str, *, package: str | None = None) -> dict[str, Any]:
    """Load a checkpoint onto the CPU.

    Args:
        source: where it is, in one of the forms above.
        package: the Python package whose `weights/` folder `package:` refers to.

    Raises:
        ValueError: the source has none of these forms, does not exist, or its checksum is wrong.
    """
    path = find_file(source, package)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch reports unsafe, truncated and foreign files by many types
        raise ValueError(f"{path} is not a checkpoint of plain tensors: {error}") from error
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"{path} holds a {type(checkpoint).__name__}, expected a state dict")
    return dict(checkpoint)


def state_dict_of(checkpoint: Mapping[str, Any], *, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a checkpoint: its `state_dict` entry if it has one, keys below `prefix`."""
    state = checkpoint.get("state_dict", checkpoint)
    if prefix and any(key.startswith(prefix) for key in state):
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    return {k: v for k, v in state.items() if isinstance(v, Tensor)}


def remap(
    state: Mapping[str, Tensor], table: Sequence[tuple[str, str | None]]
) -> dict[str, Tensor]:
    """Rename keys: the first (regular expression, replacement) that matches a key's start applies.

    A replacement of None drops the key; a key that no row matches is kept as it is.
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
    """Load a state dict with `strict=True`; half precision is widened to the module's dtype.

    Raises:
        ValueError: keys are missing or left over, or shapes differ; the first few are named.
    """
    try:
        module.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        message = str(error)
        shown = message if len(message) < 2000 else message[:2000] + " …"
        raise ValueError(f"weights from {source} do not fit: {shown}") from error


def find_file(source: str, package: str | None = None) -> Path:
    """The file that a source names, on this machine; what it names elsewhere is fetched first.

    Args:
        source, package: as of `load_checkpoint`.

    Raises:
        ValueError: the source has none of the forms, does not exist, or its checksum is wrong.
    """
    if source.startswith("package:"):
        if package is None:
            raise ValueError(f"{source!r}: this codec ships no weights, use {SOURCES}")
        folder = Path(str(files(package))) / "weights"
        path = folder / source.removeprefix("package:")
        if not path.is_file():
            shipped = sorted(p.name for p in folder.glob("*.safetensors"))
            raise ValueError(f"{package} ships no weights {path.name!r}, choose from {shipped}")
        return path
    if source.startswith("hf://"):
        return _from_hub(source)
    if source.startswith(("http://", "https://")):
        return _from_url(source)
    path = Path(source).expanduser()
    if not path.is_file():
        raise ValueError(f"no weights at {source!r}: give {SOURCES}")
    return path


def _from_hub(source: str) -> Path:
    from huggingface_hub import hf_hub_download

    match = re.fullmatch(r"hf://([^/]+/[^/@]+)(?:@([^/]+))?/(.+)", source)
    if match is None:
        raise ValueError(f"{source!r} is not of the form hf://owner/repo[@revision]/file")
    repo, revision, filename = match.groups()
    try:
        return Path(hf_hub_download(repo, filename, revision=revision))
    except Exception as error:  # the hub client raises its own, httpx's and OSError
        raise ValueError(f"could not get {source} from the hub: {error}") from error


def _from_url(source: str) -> Path:
    url, _, fragment = source.partition("#sha256=")
    if not re.fullmatch(r"[0-9a-f]{64}", fragment):
        raise ValueError(f"{url} needs its checksum: append #sha256= and 64 hex digits")
    folder = Path(torch.hub.get_dir()) / "diffcodec"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{fragment[:16]}-{Path(url).name}"
    if not path.is_file():
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=fragment)
        except (OSError, RuntimeError) as error:
            raise ValueError(f"could not download {url}: {error}") from error
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != fragment:
            raise ValueError(f"{path} has another sha256 than {fragment}: delete it and try again")
    return path
