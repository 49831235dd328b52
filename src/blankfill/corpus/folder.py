"""The output folder of `prepare`: whether it may be used, that one run uses it at a time, and what its errors mean.

Not here: what is put into it (`prepare`), the report that makes it a finished corpus (`summary`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from blankfill import console
from blankfill.corpus import summary
from blankfill.corpus.identity import prepared_marks
from blankfill.corpus.stages import write_marker
from blankfill.corpus.summary import CorpusReport
from blankfill.errors import UserError
from blankfill.system.reading import read_json

WORK = ".prepare"
"""The work folder inside the output folder."""
IGNORED = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


def refuse_other(out: Path) -> None:
    """Raise UserError when `out` is a file, or a folder that holds neither a corpus nor one in the making."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give --out a folder that does not exist yet.")
    if not out.exists() or (out / summary.FILE).exists() or (out / WORK).is_dir():
        return
    if any(path.name not in IGNORED for path in out.iterdir()):
        raise UserError(f"{out} exists and holds other files: give --out a new or an empty folder.")


def look_at(out: Path, recorded: Mapping[str, Any], identity: str, force: bool) -> CorpusReport | None:
    """The finished corpus in `out` if it was made with the options `recorded` from the sources `identity`.

    None when there is none yet, or when `force` asks for a new one. Raises UserError when it was made otherwise, or
    its files are not those that were written.
    """
    if not (out / summary.FILE).exists():
        return None
    finished = CorpusReport.read(out)
    if force:
        return None
    before, now = finished.config, recorded
    changed = [f"{name} was {before.get(name)!r} and is {now[name]!r}" for name in now if before.get(name) != now[name]]
    if finished.sources != identity:
        changed.append("the sources are others or were changed")
    if changed:
        raise UserError(
            f"{out} holds a corpus that was prepared differently ({'; '.join(changed)}): give another --out, "
            "or --force to replace it."
        )
    prepared_marks(out)
    return finished


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keeps two runs from working in one folder; a lock whose process is gone does not count."""
    import psutil

    work = out / WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:  # a parent that nobody may make, such as one under /proc
        raise UserError(
            f"Cannot write to {out} ({error.strerror}): give --out a folder that you may write to."
        ) from error
    lock = work / "lock.json"
    if lock.exists():
        try:
            held = load_json(lock)
            alive = psutil.Process(held["process"]).create_time() == held["began"]
        except (UserError, ValueError, KeyError, TypeError, psutil.Error):
            alive = False
        if alive and held["process"] != os.getpid():
            raise UserError(
                f"Process {held['process']} is preparing {out} right now: wait for it, or give another --out."
            )
    write_marker(work / "lock", {"process": os.getpid(), "began": psutil.Process().create_time()})
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


@contextmanager
def plain_errors(out: Path, need: int) -> Iterator[None]:
    """Turn a full disk (`need`: bytes that the whole work takes) or a folder that cannot be written into UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # numpy reports a short write without errno, the tokenizer library as bare text.
        text = str(error)
        codes = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
        full = isinstance(error, OSError) and (error.errno in codes or "requested and" in text)
        if full or f"os error {errno.ENOSPC}" in text:
            raise UserError(
                f"The disk of {out} is full: preparing these sources takes about {console.amount(need, 'B')} there "
                "until it is done; free some space and repeat the same command, it continues where it stopped."
            ) from error
        if isinstance(error, (PermissionError, NotADirectoryError, FileExistsError)) or (
            isinstance(error, OSError) and error.errno == errno.EROFS
        ):
            raise UserError(
                f"Cannot write to {error.filename or out} ({error.strerror}): give --out a folder that you may "
                "write to."
            ) from error
        raise


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises UserError."""
    return read_json(path)
