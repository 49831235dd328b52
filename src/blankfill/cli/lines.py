"""Lines of text from files and standard input, as the commands that answer a line at a time read them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from blankfill.errors import UserError


def lines_of(source: Path | None) -> Iterator[tuple[str, str]]:
    """(where it stands, text) of every line of a UTF-8 file, or of standard input for None; no line ends.

    UserError names a file that cannot be read and a line that is not UTF-8.
    """
    if source is None:
        yield from decoded(getattr(sys.stdin, "buffer", sys.stdin), "standard input")
        return
    try:
        with source.open("rb") as stream:
            yield from decoded(stream, str(source))
    except OSError as error:
        raise UserError(f"{source}: the file cannot be read ({error.strerror}); give a UTF-8 text file") from None


def decoded(stream: Iterable[bytes | str], name: str) -> Iterator[tuple[str, str]]:
    """(where it stands, text) of every line of a stream that is called `name`."""
    for number, line in enumerate(stream, 1):
        where = f"{name}, line {number}"
        try:
            text = line.decode("utf-8-sig") if isinstance(line, bytes) else line
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: byte {error.start + 1} is not UTF-8; save the text as UTF-8") from None
        yield where, text.rstrip("\r\n")
