"""A simulated disk that forgets what was not synced, to find writes that a power cut would undo.

`watch(root)` records, while its block runs, with which content each file was last synced, and which names each folder
had when it was last synced. `Disk.lost()` then says what a power cut at the end would lose. Renames are judged when
they happen: a file that gets its final name before its content is synced can become an empty file under that name.
Temporary names (a dot before, or `.part` behind) may be lost.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


def content(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def temporary(path: Path, root: Path) -> bool:
    return any(part.startswith(".") or part.endswith(".part") for part in path.relative_to(root).parts)


class Disk:
    """What is on a disk that keeps only what was synced. early: renames of files whose content was not synced yet."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.synced: dict[int, str] = {}
        self.names: dict[int, set[str]] = {}
        self.early: list[str] = []

    def note_sync(self, handle: int) -> None:
        number = os.fstat(handle).st_ino
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if path.is_dir():
            self.names[number] = {one.name for one in path.iterdir()}
        elif path.exists():
            self.synced[number] = content(path)

    def note_rename(self, source: Path, target: Path) -> None:
        """Called before a rename: all that moves must be synced if it gets a final name."""
        if not target.is_relative_to(self.root) or temporary(target, self.root):
            return
        moved = [source] if source.is_file() else [one for one in source.rglob("*") if one.is_file()]
        self.early += [f"{target.name} ← {one.name}" for one in moved if not self.is_synced(one)]

    def is_synced(self, path: Path) -> bool:
        return self.synced.get(path.stat().st_ino) == content(path)

    def lost(self, spared: Callable[[Path], bool] = lambda path: False) -> list[str]:
        """The files and folders whose content or name a power cut now would lose, but for those `spared`."""
        found = list(self.early)
        for path in sorted(self.root.rglob("*")):
            name = str(path.relative_to(self.root))
            if temporary(path, self.root) or path.is_symlink() or spared(path):
                continue
            if path.is_file() and not self.is_synced(path):
                found.append(f"{name}: its content")
            if path.name not in self.names.get(path.parent.stat().st_ino, set()):
                found.append(f"{name}: its name")
        return found


@contextmanager
def watch(root: Path, patch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """Record syncs and renames below `root`. Works on Linux, in one process, with threads."""
    root = root.resolve()
    disk = Disk(root)
    real_sync, real_rename, real_replace = os.fsync, os.rename, os.replace

    def fsync(handle: Any) -> None:
        number = handle if isinstance(handle, int) else handle.fileno()
        real_sync(number)
        disk.note_sync(number)

    def moving(real: Callable[..., None]) -> Callable[..., None]:
        def move(source: Any, target: Any, **options: Any) -> None:
            disk.note_rename(Path(os.fsdecode(source)).resolve(), Path(os.fsdecode(target)).absolute())
            real(source, target, **options)

        return move

    with patch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        patched.setattr(os, "rename", moving(real_rename))
        patched.setattr(os, "replace", moving(real_replace))
        yield disk
