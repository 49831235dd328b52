"""A simulated disk that is full from the n-th write on, to see what a program says and leaves then."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class Writes:
    """count: writes so far: files opened to be written, folders made, syncs, renames."""

    def __init__(self, room: int | None) -> None:
        self.room = room
        self.count = 0

    def take(self) -> None:
        """Raises OSError when the disk has no room for this one."""
        self.count += 1
        if self.room is not None and self.count > self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def full_after(room: int | None, root: Path, patch: pytest.MonkeyPatch) -> Iterator[Writes]:
    """Let `room` writes below `root` succeed and none after them; None lets all succeed and counts them."""
    writes = Writes(room)
    top = str(root.resolve())

    def guarded(module: Any, name: str) -> None:
        real = getattr(module, name)

        def call(first: Any, *rest: Any, **more: Any) -> Any:
            reached = f"/proc/self/fd/{first}" if isinstance(first, int) else os.fsdecode(first)
            if os.path.realpath(reached).startswith(top):
                writes.take()
            return real(first, *rest, **more)

        patched.setattr(module, name, call)

    def guarded_open(module: Any) -> None:
        real = module.open

        def call(file: Any, mode: str = "r", *rest: Any, **more: Any) -> Any:
            if (
                set(mode) & set("wx")
                and not isinstance(file, int)
                and os.path.realpath(os.fsdecode(file)).startswith(top)
            ):
                writes.take()
            return real(file, mode, *rest, **more)

        patched.setattr(module, "open", call)

    with patch.context() as patched:
        for name in ("fsync", "rename", "replace", "mkdir"):
            guarded(os, name)
        guarded_open(builtins)
        guarded_open(io)
        yield writes
