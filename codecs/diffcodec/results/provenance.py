"""What a number stands for: the pixels that were coded, and the code that measured them."""

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

_DIGITS = 32  # of a digest, hexadecimal


def image_digest(image: "Tensor") -> str:
    """A digest of the pixels and the size of a uint8 image (3, H, W)."""
    digest = hashlib.sha256(str(tuple(image.shape)).encode())
    digest.update(image.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:_DIGITS]


def set_digest(rows: Iterable[Mapping[str, Any]]) -> str:
    """A digest of the names and pixels of a set of images, in their order.

    Args:
        rows: `name` and `digest` (see `image_digest`) of each.
    """
    lines = (f"{row['name']}\n{row['digest']}\n" for row in rows)
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:_DIGITS]


@cache
def sources_digest(*packages: str) -> str:
    """A digest of the Python files of some packages, as they are on the disk."""
    digest = hashlib.sha256()
    for package in packages:
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(f"{package}/{path.relative_to(folder).as_posix()}\n".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:_DIGITS]


def git_revision(folder: Path = Path(__file__).parents[1]) -> str | None:
    """Revision of the checkout that this code runs from, `-dirty` if it was changed.

    None where the package is installed, also inside another project's repository.

    Args:
        folder: of the package `diffcodec`.
    """
    root = _git(folder, "rev-parse", "--show-toplevel")
    # A checkout holds the package as `codecs/diffcodec`.
    if root is None or Path(root).resolve() != folder.resolve().parents[1]:
        return None
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *command: str) -> str | None:
    # Git's own hooks say by GIT_DIR which repository they are of.
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
