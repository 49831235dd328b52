"""The process of a `blankfill` command: its streams, its encoding, and errors of the system."""

from __future__ import annotations

import codecs
import errno
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from blankfill.errors import setting
from blankfill.system.console import OutputError, complain
from blankfill.system.files import error_number

REMEDIES = {
    errno.ENOENT: "it was moved or removed while the command ran; put it back and repeat the command",
    errno.EMFILE: "allow this process more of them (ulimit -n 1024), or use fewer workers",
    errno.ENFILE: "close some programs, or use fewer workers",
    errno.ENOSPC: f"free some space, or give another {setting('out')}",
    errno.EACCES: "change its permissions, or name another",
    errno.EPERM: "change its permissions, or name another",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EIO: "the disk or the network behind it fails; look into the system's log",
}
"""Remedies for errors of the system that no command handles."""


def settle() -> None:
    """Set up the streams and the encoding of this process for any command."""
    _fill_streams()
    _speak_utf8()


def _fill_streams() -> None:
    """Open the descriptors of closed streams, so that no file of the command gets their numbers.

    A write to standard output then fails, so that its loss is noticed; notices are lost.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # the lowest that is free: this one
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            stream = open(number, "w" if number else "r", encoding="utf-8", closefd=False)  # noqa: SIM115 - for good
            setattr(sys, name, stream)


def _speak_utf8() -> None:
    """Restart in UTF-8 mode where the locale is ASCII, as Python does itself unless that is turned off.

    Otherwise names and texts of the command line would be bytes that cannot be written anywhere.
    """
    if os.name != "posix" or os.environ.get("PYTHONUTF8") == "1":
        return
    if codecs.lookup(sys.getfilesystemencoding()).name == "ascii":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


@contextmanager
def finished() -> Iterator[None]:
    """Flush standard output when a command ends in any way.

    Raises OutputError when it cannot be written; Python itself would report that only after setting the exit code.
    """
    try:
        yield
    except (BrokenPipeError, OutputError):
        _give_up_output()
        raise
    except SystemExit:  # the help of a command
        _flush()
        raise
    _flush()


def _flush() -> None:
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _give_up_output()
        raise
    except (OSError, ValueError) as error:
        _give_up_output()
        raise OutputError.of(error) from error


def _give_up_output() -> None:
    """Discard what standard output still holds, so that Python's last flush cannot fail."""
    try:
        number = sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


@contextmanager
def threads_in_sentences() -> Iterator[None]:
    """Report disk errors in threads of libraries as sentences, like those of the command itself."""
    before = threading.excepthook

    def excepthook(args: threading.ExceptHookArgs) -> None:
        message = sentence(args.exc_value) if args.exc_value is not None else None
        if message is None:
            before(args)
        else:
            complain(f"blankfill: {message}")

    threading.excepthook = excepthook
    try:
        yield
    finally:
        threading.excepthook = before


def sentence(error: BaseException) -> str | None:
    """Return a sentence for a system error that no command handles; None for an error of the program."""
    number = error_number(error)
    if number is None:
        return _files_ran_out(error)
    why = os.strerror(number)
    remedy = REMEDIES.get(number, "blankfill --debug shows where it was met")
    name = getattr(error, "filename", None)
    return f"{os.fsdecode(name)}: {why}; {remedy}" if isinstance(name, str | bytes) else f"{why}; {remedy}"


def _files_ran_out(error: BaseException | None) -> str | None:
    """Return the sentence for too many open files when a library reports them in its own words."""
    seen = 0
    while error is not None and seen < 10:
        if os.strerror(errno.EMFILE) in str(error):
            return f"{os.strerror(errno.EMFILE)}; {REMEDIES[errno.EMFILE]}"
        error, seen = error.__cause__ or error.__context__, seen + 1
    return None
