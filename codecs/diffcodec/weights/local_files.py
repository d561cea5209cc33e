"""Text that may be a path on this machine: a source of weights, an override, an argument."""

from pathlib import Path


def local_path(text: str) -> Path:
    """A path as the user typed it, `~` expanded where there is such a home."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # `~nobody`
        return Path(text)


def is_there(path: Path) -> bool:
    """Whether a path exists; text that no path can be (too long, a null byte) does not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether a path is an existing folder; text that no path can be is none."""
    return is_there(path) and path.is_dir()


def is_file(path: Path) -> bool:
    """Whether a path is an existing file; text that no path can be is none."""
    return is_there(path) and path.is_file()
