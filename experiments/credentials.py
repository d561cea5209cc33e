"""Whether W&B credentials exist; without them runs are logged offline."""

import netrc
import os
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse

Mode = Literal["online", "offline", "disabled", "shared"]
MODES: tuple[Mode, ...] = ("online", "offline", "disabled", "shared")


def wandb_mode(mode: str | None = None) -> Mode:
    """Online with an API key (WANDB_API_KEY or `wandb login`), else offline.

    Args:
        mode: of the config; null: as above. WANDB_MODE takes precedence.

    Raises:
        ValueError: the mode is unknown.
    """
    wanted = os.environ.get("WANDB_MODE") or mode or ("online" if has_api_key() else "offline")
    for known in MODES:
        if wanted == known:
            return known
    raise ValueError(f"unknown W&B mode {wanted!r}, choose from {MODES}")


def has_api_key() -> bool:
    """Whether W&B has credentials, in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        path = os.environ.get("NETRC") or str(Path.home() / ".netrc")
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, RuntimeError, netrc.NetrcParseError):
        return False
