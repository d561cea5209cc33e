"""Local paths from user input, such as a source of weights, an override or an argument."""

from pathlib import Path


def local_path(text: str) -> Path:
    """Convert user input to a path, with `~` expanded if that home exists."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # `~nobody`
        return Path(text)


def is_there(path: Path) -> bool:
    """Whether a path exists; false for invalid paths (too long, or with a null byte)."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether a path is an existing folder; false for invalid paths."""
    return is_there(path) and path.is_dir()


def is_file(path: Path) -> bool:
    """Whether a path is an existing file; false for invalid paths."""
    return is_there(path) and path.is_file()
