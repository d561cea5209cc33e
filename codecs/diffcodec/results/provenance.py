"""Provenance of results: digests of the coded images and of the code that measured them."""

import hashlib
import os
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_DIGITS = 32  # number of hex digits of a digest


def image_digest(image: "Tensor") -> str:
    """Digest of the pixels and the size of a uint8 image (3, H, W)."""
    digest = hashlib.sha256(str(tuple(image.shape)).encode())
    digest.update(image.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:_DIGITS]


def set_digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """Digest of the names and pixels of a list of images.

    Args:
        rows: mappings with the `name` and the `digest` (see `image_digest`) of each image.
    """
    lines = (f"{row['name']}\n{row['digest']}\n" for row in rows)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:_DIGITS]


@cache
def sources_digest(*packages: str) -> str:
    """Digest of the Python files of packages on disk."""
    digest = hashlib.sha256()
    for package in packages:
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(f"{package}/{path.relative_to(folder).as_posix()}\n".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:_DIGITS]


def git_revision(folder: Path = Path(__file__).parents[1]) -> str | None:
    """Git revision of the checkout that this code runs from, with `-dirty` if it has changes.

    None if the package is installed, even inside another project's repository.

    Args:
        folder: folder of the package `diffcodec`.
    """
    root = _git(folder, "rev-parse", "--show-toplevel")
    # A checkout holds the package as `codecs/diffcodec`.
    if root is None or Path(root).resolve() != folder.resolve().parents[1]:
        return None
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *command: str) -> str | None:
    # Git hooks set GIT_DIR to their own repository.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", *command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
