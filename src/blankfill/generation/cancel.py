"""A flag that stops generation and filling: any thread may set it, and each step checks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Flag(Protocol):
    """Any object that can be set, such as a `threading.Event`."""

    def is_set(self) -> bool:
        """Return whether to stop."""
        ...


CancelFlag = Flag | Callable[[], bool]
"""A flag, or a function that returns whether to stop."""


class CancelledError(Exception):
    """A flag stopped a search or the filling of a blank, which have no result before their end."""


def is_cancelled(cancel: CancelFlag | None) -> bool:
    """Return whether a flag is set."""
    if cancel is None:
        return False
    return bool(cancel()) if callable(cancel) else cancel.is_set()


def check_cancelled(cancel: CancelFlag | None) -> None:
    """Raise CancelledError when a flag is set."""
    if is_cancelled(cancel):
        raise CancelledError("cancelled")
