"""Resolution of sources of weights to files and folders."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from diffcodec.weights.local_files import is_file, is_folder, local_path

SOURCES = (
    "a shipped name, a file or folder, hf://owner/repo[@revision][/file], https://…#sha256=… "
    "or pip://distribution/file"
)
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

ZOO = "zoo"

_CHECKSUM = "#sha256="
_HUB = re.compile(r"hf://([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?")
_PIP = "pip://"


def find_file(source: str) -> Path:
    """Resolve a source to a local file; remote files are downloaded first.

    For a folder, the file is `model.safetensors`.

    Raises:
        ValueError: the source has an unknown form, does not exist, or its checksum is wrong.
    """
    location, _, checksum = source.partition(_CHECKSUM)
    if checksum and not re.fullmatch(r"[0-9a-f]{64}", checksum):
        raise ValueError(f"{source!r}: {_CHECKSUM} must be followed by 64 hex digits")
    if location.startswith(("http://", "https://")):
        path = _download(location, checksum)
    elif location.startswith("hf://"):
        repository, revision, file = _parse_hub(location)
        path = _fetch(repository, file or WEIGHTS_FILE, revision)
    elif location.startswith(_PIP):
        path = _installed(location)
    else:
        path = _local(location)
        path = path / WEIGHTS_FILE if is_folder(path) else path
    if not is_file(path):
        hint = _missing_hint(location)
        raise ValueError(f"no weights at {source!r}: {hint}")
    if checksum and file_digest(path) != checksum:
        raise ValueError(f"checksum mismatch: {path} does not have sha256 {checksum}")
    return path


def find_config(source: str) -> dict[str, Any] | None:
    """Read the `config.json` beside the weights of a source; None if there is none.

    Raises:
        ValueError: the hub cannot be reached, or the file is not a JSON object.
    """
    location = source.partition(_CHECKSUM)[0]
    if location.startswith(("http://", "https://", _PIP)):
        return None
    if location.startswith("hf://"):
        repository, revision, file = _parse_hub(location)
        path = None if file else _fetch(repository, CONFIG_FILE, revision, optional=True)
    else:
        path = _local(location)
        if path.name == WEIGHTS_FILE:
            path = path.parent
        path = path / CONFIG_FILE
    if path is None or not is_file(path):
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}, expected an object")
    return config


def has_weights(source: str) -> bool:
    """Whether a source has tensors; a folder may contain a config only.

    Raises:
        ValueError: the hub cannot be reached.
    """
    location = source.partition(_CHECKSUM)[0]
    if location.startswith("hf://"):
        repository, revision, file = _parse_hub(location)
        return _fetch(repository, file or WEIGHTS_FILE, revision, optional=True) is not None
    path = _local(location)
    return is_file(path / WEIGHTS_FILE) if is_folder(path) else True


def find_pipeline(source: str) -> tuple[str, dict[str, Any]]:
    """Convert a source to arguments of `from_pretrained` in diffusers and transformers.

    Args:
        source: a folder, or `hf://owner/repo[@revision]`.

    Returns:
        The folder or repository, and keyword arguments.

    Raises:
        ValueError: the source has another form, or the folder does not exist.
    """
    if source.startswith("hf://"):
        repository, revision, file = _parse_hub(source)
        if file:
            raise ValueError(f"{source!r} is one file, expected hf://owner/repo[@revision]")
        return repository, {"revision": revision} if revision else {}
    folder = local_path(source)
    if not is_folder(folder):
        raise ValueError(f"no such folder: {source!r}; pass a folder or hf://owner/repo[@revision]")
    return str(folder), {}


def shipped() -> dict[str, Path]:
    """Names and folders of the shipped models."""
    package = Path(str(files("diffcodec")))
    return {path.parent.name: path.parent for path in package.glob(f"*/weights/*/{CONFIG_FILE}")}


def is_public(source: str) -> bool:
    """Whether a source is available on other machines: shipped, from a package or on the web."""
    location = source.partition(_CHECKSUM)[0]
    public = ("hf://", "http://", "https://", _PIP)
    return location.startswith(public) or location in (ZOO, *shipped())


def pinned(source: str) -> str:
    """Append a checksum to the name of a shipped model, which another version may replace."""
    if _CHECKSUM in source or source not in shipped():
        return source
    path = shipped()[source] / WEIGHTS_FILE
    return f"{source}{_CHECKSUM}{file_digest(path)}" if path.is_file() else source


def file_digest(path: Path) -> str:
    """The sha256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _local(location: str) -> Path:
    return shipped().get(location) or local_path(location)


def _parse_hub(location: str) -> tuple[str, str | None, str | None]:
    match = _HUB.fullmatch(location)
    if match is None:
        raise ValueError(f"{location!r} is not of the form hf://owner/repo[@revision][/file]")
    repository, revision, file = match.groups()
    return repository, revision, file


def _installed(location: str) -> Path:
    """Resolve `pip://distribution/file` to the file of an installed distribution."""
    from importlib.metadata import PackageNotFoundError, distribution

    name, _, file = location.removeprefix(_PIP).partition("/")
    if not name or not file:
        raise ValueError(f"{location!r} is not of the form pip://distribution/file")
    try:
        return Path(str(distribution(name).locate_file(file)))
    except PackageNotFoundError as error:
        raise ValueError(f"the package {name} is not installed: pip install {name}") from error


RENAMED = {"cdc_own": "cdc"}


def _missing_hint(location: str) -> str:
    if location in RENAMED:
        return f"{location!r} was renamed to {RENAMED[location]!r}"
    if re.fullmatch(r"\w+", location):
        return f"{location!r} is not a shipped name {sorted(shipped())}; pass {SOURCES}"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", location):
        return f"pass hf://{location} for a hub repository, or {SOURCES}"
    return f"pass {SOURCES}"


def _fetch(repository: str, file: str, revision: str | None, *, optional: bool = False) -> Any:
    """Fetch a file from the hub; None if it is optional and missing in the repository."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, file, revision=revision))
    except Exception as error:  # the hub client raises its own errors, httpx's and OSError
        missing = isinstance(error, EntryNotFoundError)
        # LocalEntryNotFoundError: without network, the file is not in the cache but may exist.
        if optional and missing and not isinstance(error, LocalEntryNotFoundError):
            return None
        name = f"hf://{repository}" + (f"@{revision}" if revision else "") + f"/{file}"
        raise ValueError(f"could not get {name} from the hub: {error}") from error


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Lock torch's hub cache, so that only one process of a machine downloads at a time.

    The first process downloads, and the others read the cache. The hub client of `_fetch` has its
    own locks.
    """
    folder = Path(torch.hub.get_dir())
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "diffcodec.lock"):
        yield


def _download(url: str, checksum: str) -> Path:
    if not checksum:
        raise ValueError(f"{url} needs its checksum: append {_CHECKSUM} and 64 hex digits")
    folder = Path(torch.hub.get_dir()) / "diffcodec"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{checksum[:16]}-{Path(url).name}"
    with one_at_a_time():
        if path.is_file():
            return path
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=checksum)
        except (OSError, RuntimeError) as error:
            raise ValueError(f"could not download {url}: {error}") from error
    return path
