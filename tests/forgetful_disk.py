"""A simulated disk that forgets what was not synced, to find writes that a power cut would undo.

`watch(root)` records, while its block runs, with which content each file was last synced, and which names each folder
had when it was last synced. `Disk.lost()` then says what a power cut at the end would lose, and `Disk.after_cut` writes
what one would leave at this moment. Renames are judged when they happen: a file that gets its final name before its
content is synced can become an empty file under that name. Temporary names (a dot before, or `.part` behind) may be
lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest


def temporary(path: Path, root: Path) -> bool:
    return any(part.startswith(".") or part.endswith(".part") for part in path.relative_to(root).parts)


def identity(path: Path) -> int:
    return path.lstat().st_ino


def names_in(folder: Path) -> dict[str, tuple[int, bool]]:
    """What lies in a folder: its identity, and whether it is a folder."""
    results = {}
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another thread renamed it meanwhile
            results[path.name] = (identity(path), path.is_dir())
    return results


class Disk:
    """What is on a disk that keeps only what was synced. early: renames of files whose content was not synced yet.

    after_sync: called after each sync with the number of syncs so far.
    """

    def __init__(self, root: Path, after_sync: Callable[[Disk, int], None] | None) -> None:
        self.root = root
        self.after_sync = after_sync
        self.count = 0
        self.contents: dict[int, bytes] = {}
        self.names: dict[int, dict[str, tuple[int, bool]]] = {}
        self.early: list[tuple[Path, str]] = []
        self.held: dict[int, int] = {}

    def note_sync(self, handle: int) -> None:
        number = os.fstat(handle).st_ino
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if not path.is_relative_to(self.root) or not path.exists():
            return
        if number not in self.held:  # so that no new file gets the number of a removed one
            self.held[number] = os.dup(handle)
        if path.is_dir():
            self.names[number] = names_in(path)
        else:
            self.contents[number] = path.read_bytes()
        self.count += 1
        if self.after_sync:
            self.after_sync(self, self.count)

    def note_rename(self, source: Path, target: Path) -> None:
        """Called before a rename: all that moves must be synced if it gets a final name."""
        if not target.is_relative_to(self.root) or temporary(target, self.root):
            return
        moved = [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]
        self.early += [(target, f"{target.name} ← {path.name}") for path in moved if not self.is_synced(path)]

    def is_synced(self, path: Path) -> bool:
        return self.contents.get(identity(path)) == path.read_bytes()

    def lost(self, spared: Callable[[Path], bool] = lambda path: False) -> list[str]:
        """The files and folders whose content or name a power cut now would lose, but for those `spared`."""
        results = [text for target, text in self.early if not spared(target)]
        for path in sorted(self.root.rglob("*")):
            name = str(path.relative_to(self.root))
            if temporary(path, self.root) or path.is_symlink() or spared(path):
                continue
            if path.is_file() and not self.is_synced(path):
                results.append(f"{name}: its content")
            if self.names.get(identity(path.parent), {}).get(path.name, (0,))[0] != identity(path):
                results.append(f"{name}: its name")
        return results

    def after_cut(self, target: Path, names_kept: bool) -> None:
        """Write to `target` what a power cut now would leave.

        names_kept: the system had written all names already, but of contents only what was synced, so that files may
        be empty; otherwise names too are those of the last syncs.
        """
        self._restore(self.root, identity(self.root), target, names_kept)

    def _restore(self, now: Path, folder: int, target: Path, names_kept: bool) -> None:
        target.mkdir()
        names = names_in(now) if names_kept else self.names.get(folder, {})
        for name, (number, is_folder) in names.items():
            if is_folder:
                self._restore(now / name, number, target / name, names_kept)
            else:
                (target / name).write_bytes(self.contents.get(number, b""))


@contextmanager
def watch(
    root: Path, patch: pytest.MonkeyPatch, after_sync: Callable[[Disk, int], None] | None = None
) -> Iterator[Disk]:
    """Record syncs and renames below `root`. Works on Linux, in one process, with threads."""
    root = root.resolve()
    disk = Disk(root, after_sync)
    real_rename, real_replace = os.rename, os.replace

    def fsync(handle: Any) -> None:
        disk.note_sync(handle if isinstance(handle, int) else handle.fileno())

    def moving(real: Callable[..., None]) -> Callable[..., None]:
        def move(source: Any, target: Any, **options: Any) -> None:
            disk.note_rename(Path(os.fsdecode(source)).resolve(), Path(os.fsdecode(target)).absolute())
            real(source, target, **options)

        return move

    with patch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        patched.setattr(os, "rename", moving(real_rename))
        patched.setattr(os, "replace", moving(real_replace))
        try:
            yield disk
        finally:
            for handle in disk.held.values():
                os.close(handle)
