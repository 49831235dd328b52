"""A flag that stops writing and filling: asked before each step, from whatever thread it is set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Flag(Protocol):
    """Something that is set once, such as a `threading.Event`."""

    def is_set(self) -> bool:
        """Whether to stop."""
        ...


CancelFlag = Flag | Callable[[], bool]
"""A flag, or a function that says whether to stop."""


class CancelledError(Exception):
    """A flag stopped what has no result before its end: a search, or the filling of a blank."""


def is_cancelled(cancel: CancelFlag | None) -> bool:
    """Whether a flag is set."""
    if cancel is None:
        return False
    return bool(cancel()) if callable(cancel) else cancel.is_set()


def check_cancelled(cancel: CancelFlag | None) -> None:
    """Raise CancelledError when a flag is set."""
    if is_cancelled(cancel):
        raise CancelledError("cancelled")
