"""What a tracker does besides the measurement, which must not end with it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

_told: set[str] = set()


@contextmanager
def never_fatal(tracker: str = "W&B") -> Iterator[None]:
    """Go on where a tracker fails, with one warning for all of its failures."""
    try:
        yield
    except Exception as error:  # W&B raises its own, OSError, ValueError, pydantic's, …
        warn_once(tracker, f"{tracker} failed and may lack parts of this run: {in_one_line(error)}")


def warn_once(tracker: str, message: str) -> None:
    """Log the first failure of a tracker; the others would say the same."""
    if tracker not in _told:
        _told.add(tracker)
        log.warning("%s", message)


def in_one_line(error: Exception) -> str:
    """What an error says, or its type where it says nothing."""
    return " ".join(str(error).split())[:300] or type(error).__name__
