"""Optional packages, which a plain installation does not have."""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution

SUBMITIT = "hydra-submitit-launcher"


def is_installed(package: str) -> bool:
    """Whether pip has installed a package; a folder of that name does not count."""
    try:
        distribution(package)
    except PackageNotFoundError:
        return False
    return True


def require(package: str, what: str) -> None:
    """Refuse what needs a package that is not installed.

    Raises:
        ValueError: it is missing; the message names the command that installs it.
    """
    if not is_installed(package):
        raise ValueError(f"{what} needs the package {package}: pip install {package}")


def check_extras(arguments: Sequence[str]) -> None:
    """Refuse a command line that chooses a logger or launcher whose package is missing.

    Raises:
        ValueError: the package that must be installed.
    """
    for argument in arguments:
        if argument == "logger=wandb":
            require("wandb", argument)
        elif argument.startswith("hydra/launcher=submitit"):
            require(SUBMITIT, argument)
