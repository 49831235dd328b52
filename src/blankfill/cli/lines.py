"""Reading lines of text from files and standard input, for commands that process one line at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, TextIO, TypeVar

from blankfill.corpus.limits import LONGEST_GIVEN, too_long
from blankfill.corpus.tables.options import TableOptions
from blankfill.errors import UserError, setting

T = TypeVar("T")


def taken_for_column(columns: Sequence[str]) -> str:
    """Return a hint where the last of the columns is the name of a file, which a list of values has swallowed."""
    if not columns or not Path(columns[-1]).is_file():
        return ""
    return f"; {columns[-1]} was taken for a column: name the file before {setting('columns')}"


def refuse_table_options(source: Path | None, options: TableOptions) -> None:
    """Raise UserError for options of tables with standard input (None), which is read as lines."""
    if source is None and options != TableOptions():
        raise UserError("standard input is read as lines, not as a table: give the table as a file")


def lines_of(source: Path | None) -> Iterator[tuple[str, str]]:
    """Yield (place, text) of every line of a UTF-8 file, or of standard input for None, without line ends.

    UserError names a file that cannot be read, a line that is not UTF-8, and one of more than LONGEST_GIVEN bytes.
    """
    if source is None:
        yield from decoded(getattr(sys.stdin, "buffer", sys.stdin), "standard input")
        return
    try:
        with source.open("rb") as stream:
            yield from decoded(stream, str(source))
    except OSError as error:
        raise UserError(f"{source}: the file cannot be read ({error.strerror}); give a UTF-8 text file") from None


def decoded(stream: BinaryIO | TextIO, name: str) -> Iterator[tuple[str, str]]:
    """Yield (place, text) of every line of a stream; `name` appears in the places."""
    number = 0
    while line := stream.readline(LONGEST_GIVEN + len("\r\n")):
        number += 1
        where = f"{name}, line {number}"
        if len(line) > LONGEST_GIVEN and line[LONGEST_GIVEN:].strip():
            raise too_long(where, LONGEST_GIVEN, "split that text over several lines", "bytes")
        try:
            text = line.decode("utf-8-sig") if isinstance(line, bytes) else line
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: byte {error.start + 1} is not UTF-8; save the text as UTF-8") from None
        yield where, text.rstrip("\r\n")


def windows(texts: Iterable[T], most: int, size: Callable[[T], int]) -> Iterator[list[T]]:
    """Yield consecutive texts in lists of at most `most`, and of at most LONGEST_GIVEN characters unless one has more.

    size: returns the approximate number of characters of a text.
    """
    window: list[T] = []
    total = 0
    for text in texts:
        length = size(text)
        if window and (len(window) == most or total + length > LONGEST_GIVEN):
            yield window
            window, total = [], 0
        window.append(text)
        total += length
    if window:
        yield window
