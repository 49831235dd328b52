"""Copies of standard input and of pipes in temporary files, which sources that are read twice need.

A copy is removed when its process ends; that of a process that was killed is removed by the next one.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from blankfill.system.files import disk_errors

SPOOLED = "blankfill-text-"
"""How the names of temporary files with piped text begin."""
_LOCKS: list[int] = []
"""Handles that lock the temporary files of this process."""


def is_pipe(path: str) -> bool:
    """Return whether a path is a named pipe."""
    return stat.S_ISFIFO(Path(path).stat().st_mode)


def spooled(path: str) -> str:
    """Copy standard input or a pipe to a temporary file, which is removed when this process ends.

    A process that is killed leaves its file behind; the next one removes it.
    """
    remove_leftovers(Path(tempfile.gettempdir()))
    handle, name = _locked_temporary()
    atexit.register(_remove, name)
    remedy = "let TMPDIR name another folder"
    with disk_errors(Path(name), remedy), os.fdopen(handle, "wb") as target:
        if path == "-":
            shutil.copyfileobj(sys.stdin.buffer, target)
        else:
            with Path(path).open("rb") as source:
                shutil.copyfileobj(source, target)
    return name


def _locked_temporary() -> tuple[int, str]:
    """Return a new temporary file, open to be written, and its name. It stays locked as long as this process lives."""
    while True:
        handle, name = tempfile.mkstemp(prefix=SPOOLED)
        lock = os.dup(handle)  # a lock of `flock` lasts until all copies of its handle are closed
        locked = _lock(lock)
        if locked:
            _LOCKS.append(lock)
        else:  # Windows does not remove a file that is open
            os.close(lock)
        if locked is not False and Path(name).exists():  # not removed between making and locking
            return handle, name
        os.close(handle)


def _remove(name: str) -> None:
    for lock in _LOCKS:
        with suppress(OSError):
            os.close(lock)
    _LOCKS.clear()
    with suppress(OSError):
        Path(name).unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that were killed: those that no process has locked."""
    for path in folder.glob(f"{SPOOLED}*"):
        with suppress(OSError):  # another user's, or gone already
            handle = os.open(path, os.O_RDWR)
            try:
                if _lock(handle):
                    path.unlink()
            finally:
                os.close(handle)


def _lock(handle: int) -> bool | None:
    """Return whether a file could be locked, False where another process has locked it; None where there are no such
    locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True
