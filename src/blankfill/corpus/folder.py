"""The output folder of `prepare`: checks whether it may be used, locks it for one run, and explains its errors.

Not here: what is put into it (`prepare`), the report that makes it a finished corpus (`summary`).
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from blankfill.corpus import summary
from blankfill.corpus.identity import prepared_marks
from blankfill.corpus.summary import CorpusReport
from blankfill.errors import UserError, setting
from blankfill.system import console, files
from blankfill.system.reading import read_json

WORK = ".prepare"
"""The work folder inside the output folder."""
OURS = re.compile(r"(text|chosen|tokenizer|tokens)-[0-9a-f]{12}|final|lock\.json")
"""Names in the work folder; nothing else is ever removed from it."""
MADE = frozenset(
    {f"{side}{suffix}" for side in ("train", "valid") for suffix in (".bin", ".idx")}
    | {"unigram.npy", "tokenizer.json", "tokenizer_config.json", summary.FILE, summary.PAGE, "plans"}
)
"""Files of a finished corpus, its page, and the folder where training keeps its plans."""
IGNORED = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})


def is_prepared(folder: Path) -> bool:
    """Return whether a folder is a finished corpus made by `prepare`."""
    return os.path.lexists(folder / summary.FILE)  # of any kind; a wrong kind is reported later


def refuse_other(out: Path, force: bool) -> None:
    """Raise UserError when `out` is a file, or a folder that holds neither a corpus nor an unfinished one.

    force: accept the remains of a corpus.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: give {setting('out')} a folder that does not exist yet.")
    if not out.exists() or (out / summary.FILE).exists() or (out / WORK).is_dir():
        return
    held = {path.name for path in out.iterdir()} - IGNORED
    if held - MADE or (held and "train.bin" not in held):
        raise UserError(f"{out} exists and holds other files: give {setting('out')} a new or an empty folder.")
    if held and not force:
        raise UserError(
            f"{out} holds files of a corpus but not its report, {summary.FILE}: give {setting('force', True)} to "
            "prepare it again, "
            f"or another {setting('out')}."
        )


def look_at(out: Path, recorded: Mapping[str, Any], identity: str, force: bool) -> CorpusReport | None:
    """Return the finished corpus in `out` if it was made with the options `recorded` from the sources `identity`.

    Returns None when there is no corpus yet, or when `force` requests a new one. Raises UserError when the corpus was
    made with other options, when its files have changed since, and when its report is damaged and there is no work to
    continue.
    """
    if force or not (out / summary.FILE).exists():
        return None
    try:
        finished = CorpusReport.read(out)
    except UserError as error:
        if (out / WORK).is_dir():
            return None  # the report is written last, so the work was not done
        raise UserError(f"{error.template} To replace it, give {setting('force', True)}.") from error
    before, now = finished.config, recorded
    changed = [f"{name} was {before.get(name)!r} and is {now[name]!r}" for name in now if before.get(name) != now[name]]
    if finished.sources != identity:
        changed.append("the sources are others or were changed")
    if changed:
        raise UserError(
            f"{out} holds a corpus that was prepared differently ({'; '.join(changed)}): give another "
            f"{setting('out')}, "
            f"or {setting('force', True)} to replace it."
        )
    prepared_marks(out)
    return finished


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Keep two runs from working in one folder; ignore a lock whose process is gone."""
    import psutil

    work = out / WORK
    files.refuse_link(work)
    try:
        files.make_folder(work)
    except FileNotFoundError as error:  # a parent that nobody may create, such as a folder under /proc
        raise UserError(
            f"Cannot write to {out} ({error.strerror}): give {setting('out')} a folder that you may write to."
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
                f"Process {held['process']} is preparing {out} right now: wait for it, or give another "
                f"{setting('out')}."
            )
    files.write_file(lock, json.dumps({"process": os.getpid(), "began": psutil.Process().create_time()}))
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def clear_work(out: Path) -> None:
    """Remove this program's files from the work folder, and the folder if it is then empty."""
    work = out / WORK
    files.refuse_link(work)
    files.remove_parts(work)
    for path in files.entries(work):
        if OURS.fullmatch(path.name):
            files.remove(path)
    with suppress(OSError):
        work.rmdir()


@contextmanager
def plain_errors(out: Path, need: int) -> Iterator[None]:
    """Turn a full disk (`need`: bytes that all stages take) or a folder that cannot be written into a UserError."""
    try:
        yield
    except Exception as error:
        full = error.full if isinstance(error, files.DiskError) else files.error_number(error) in files.FULL
        if isinstance(error, UserError) and not full:
            raise
        if full:
            raise UserError(
                f"The disk of {out} is full: preparing these sources takes about {console.amount(need, 'B')} there "
                "until it is done; free some space and repeat the same command, it continues where it stopped."
            ) from error
        if isinstance(error, (PermissionError, NotADirectoryError, FileExistsError)) or (
            isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EFBIG)
        ):
            raise UserError(
                f"Cannot write to {error.filename or out} ({error.strerror}): give {setting('out')} a folder that "
                "you may "
                "write to."
            ) from error
        raise


def load_json(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file. Raises UserError."""
    return read_json(path)
