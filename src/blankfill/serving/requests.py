"""The requests that run: what the log and the numbers say of each, the models that it holds, and how it is ended early.

`current` is the request of the running handler, in any task that it started. A request holds the models that it uses,
so that one that was opened again is closed only when its last request has ended.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol

from blankfill.serving.errors import ApiError

GONE = ApiError(499, "the client closed the connection", "client_gone")
"""Why a request ends whose client went away; nobody reads the answer, and only the log has the status."""
_RANDOM = random.Random()
"""Numbers of requests: no secrets, and without the system call that would hand the thread's turn to a model."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_RANDOM.seed)


class Held(Protocol):
    """A thing that is kept while requests use it."""

    def acquire(self) -> None:
        """Count one more user."""
        ...

    def release(self) -> None:
        """Count one user less."""
        ...


@dataclass(eq=False)
class RunningRequest:
    """A request that runs. read, written: tokens. task: of its handler. why: what ended it early."""

    id: str = field(default_factory=lambda: f"req-{_RANDOM.getrandbits(96):024x}")
    model: str = ""
    read: int = 0
    written: int = 0
    body: bytes = b""
    task: asyncio.Task[object] | None = None
    why: ApiError | None = None
    answered: bool = False
    """Whether the answer has been sent in full."""
    reading: bool = True
    """Whether the body has not arrived in full."""
    count: Callable[[str, int, int], None] | None = None
    """Counts tokens of a model that were read and written, in the numbers of the server."""
    held: list[Held] = field(default_factory=list)

    def end(self, why: ApiError) -> None:
        """End the request early, once: its handler is cancelled."""
        if self.why is None and not self.answered and self.task is not None:
            self.why = why
            self.task.cancel()

    def hold(self, thing: Held) -> None:
        """Keep a thing until the request has ended."""
        if thing not in self.held:
            thing.acquire()
            self.held.append(thing)

    def release(self) -> None:
        """Let go of everything that was held."""
        while self.held:
            self.held.pop().release()


current: ContextVar[RunningRequest | None] = ContextVar("current request", default=None)


def counted(read: int = 0, written: int = 0) -> None:
    """Count tokens of the running request; to be called where they are known, in its handler."""
    request = current.get()
    if request is not None and request.count is not None and request.model:
        request.read += read
        request.written += written
        request.count(request.model, read, written)
