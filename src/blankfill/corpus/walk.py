"""The files at a path: those of a folder in order, each once, and one line about each that cannot be read.

Links are followed. A folder or file that two links lead to is read once, and so is a folder that a link inside it leads
back to. What in a folder cannot be read is passed over and listed; a path that the user named is an error instead.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from blankfill.corpus import summary
from blankfill.errors import UserError
from blankfill.system.reading import UnreadableError, regular_size


@dataclass
class Walk:
    """One look at the paths that the user named.

    skipped: receives a line, "path: reason", for each file or folder that is passed over.
    """

    skipped: list[str]
    _seen: dict[tuple[int, int], str] = field(default_factory=dict)

    def files(self, path: str) -> Iterator[tuple[str, str]]:
        """Yield (file, the folder that the user named and that holds it; "" for a named file) for the files at a path.

        Raises UserError for a path that does not exist or cannot be listed, and for the folder of a prepared corpus.
        """
        if path == "-":
            yield path, ""
        elif Path(path).is_dir():
            _refuse_tokens(Path(path))
            self._seen = {}
            yield from ((file, path) for file in self._below(path, named=True))
        elif Path(path).exists():
            yield path, ""
        elif glob.has_magic(path) and (matches := sorted(glob.glob(path, recursive=True))):  # noqa: PTH207
            # Some shells pass patterns without expanding them.
            for match in matches:
                yield from self.files(match)
        elif Path(path).is_symlink():
            regular_size(Path(path))
        else:
            raise UserError(f"{path} does not exist: check the path (a folder, a file, - or python-docs).")

    def _below(self, folder: str, named: bool = False) -> Iterator[str]:
        try:
            with os.scandir(folder) as entries:
                names = sorted(entry.name for entry in entries)
            status = Path(folder).stat()
        except OSError as error:
            if named:
                raise UserError(f"{folder} cannot be read ({error.strerror}).") from error
            self.skipped.append(f"{folder}: cannot be read ({error.strerror})")
            return
        if self._is_again(folder, status, "folder"):
            return
        files: list[str] = []
        folders: list[str] = []
        for name in names:
            if not name.startswith("."):
                (folders if os.path.isdir(os.path.join(folder, name)) else files).append(name)  # noqa: PTH112, PTH118
        for name in files:
            if self._is_new(str(Path(folder) / name)):
                yield str(Path(folder) / name)
        for name in folders:
            if shown := _shown(name):
                self.skipped.append(f"{folder}{os.sep}{shown}: its name is not UTF-8; rename it")
                continue
            yield from self._below(str(Path(folder) / name))

    def _is_new(self, path: str) -> bool:
        """Return whether a file can be read and was not read before; if not, say why."""
        if shown := _shown(Path(path).name):
            self.skipped.append(f"{Path(path).parent}{os.sep}{shown}: its name is not UTF-8; rename it")
            return False
        try:
            regular_size(Path(path))
            status = Path(path).stat()
        except (UnreadableError, OSError) as error:
            why = error if isinstance(error, UnreadableError) else f"{path} cannot be read ({error})"
            self.skipped.append(str(why).replace(f"{path} ", f"{path}: ", 1))
            return False
        return not self._is_again(path, status, "file")

    def _is_again(self, path: str, status: os.stat_result, what: str) -> bool:
        if not status.st_ino:  # file systems without such numbers
            return False
        first = self._seen.setdefault((status.st_dev, status.st_ino), path)
        # Two names of one file without links are two texts of the user, as they would be after a copy.
        if first == path or (what == "file" and not (Path(path).is_symlink() or Path(first).is_symlink())):
            return False
        self.skipped.append(f"{path}: the same {what} as {first}, which is read")
        return True


def _shown(name: str) -> str:
    """Return a name for messages where it is not UTF-8, "" where it is."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return os.fsencode(name).decode("utf-8", "replace")
    return ""


def refuse_broken_corpus(folder: Path) -> None:
    """Raise UserError for a folder with the token files of a prepared corpus, but without its `corpus.json`."""
    if all((folder / name).is_file() for name in ("train.bin", "train.idx")) and not (folder / summary.FILE).exists():
        raise UserError(
            f"{folder} looks like a prepared corpus whose {summary.FILE} is missing; put that file back, or prepare "
            "the text again."
        )


def _refuse_tokens(folder: Path) -> None:
    """Raise UserError for the folder of a prepared corpus, whole or not, since its files are not text."""
    refuse_broken_corpus(folder)
    if (folder / summary.FILE).is_file() and (folder / "train.bin").is_file():
        raise UserError(
            f"{folder} is a prepared corpus, whose files are tokens and not text; give the text that it was made of "
            "(only pretrain, show and plan take a prepared corpus, as their one path)."
        )
