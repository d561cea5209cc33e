"""Trackers, which must never stop a measurement."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

_told: set[str] = set()


@contextmanager
def never_fatal(tracker: str = "W&B") -> Iterator[None]:
    """Continue if a tracker fails, with one warning for all of its failures."""
    try:
        yield
    except Exception as error:  # W&B raises its own errors, OSError, ValueError, pydantic's, …
        warn_once(tracker, f"{tracker} failed and may lack parts of this run: {in_one_line(error)}")


def warn_once(tracker: str, message: str) -> None:
    """Log the first failure of a tracker; later ones repeat it."""
    if tracker not in _told:
        _told.add(tracker)
        log.warning("%s", message)


def in_one_line(error: Exception) -> str:
    """The message of an error, or its type if it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__
