"""Rows of CSV and TSV files: cells, the row's first line, and what is wrong with it.

A line without a quotation mark is cut at the delimiter; a row with one is read by Python's `csv`. A mark that is never
closed is an error that names the line where it opens. Rows with more cells than the header are an error, unless the
last column is the one that may hold unquoted delimiters. Not here: how a file writes its cells (`delimiters`).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from blankfill.corpus import limits
from blankfill.corpus.decoding import lines
from blankfill.corpus.tables.delimiters import Dialect, cell_pattern, well_formed
from blankfill.errors import UserError

Row = tuple[int, list[str], str]
"""The first line of a row (from 1), its cells, and its text."""


def with_line_feeds(pieces: Iterable[str]) -> Iterator[str]:
    """Yield a text in which every line end is a line feed: CR LF, and CR alone."""
    held = ""
    for piece in pieces:
        if held or "\r" in piece:
            piece = held + piece
            held = "\r" if piece.endswith("\r") else ""
            piece = piece[: len(piece) - len(held)].replace("\r\n", "\n").replace("\r", "\n")
        yield piece
    if held:
        yield "\n"


def csv_rows(pieces: Iterable[str], name: str, dialect: Dialect) -> Iterator[Row]:
    """Yield the rows of a text that are not empty. name: of the file, for errors.

    Raises UserError for a row of more than LONGEST_RECORD characters and for a quotation mark that is never closed.
    """
    reader = _Reader(pieces, name, dialect)
    delimiter = dialect.delimiter
    if not dialect.quoted:
        for line in reader.lines:
            reader.number += 1
            if line and (delimiter in line or line.strip()):
                yield reader.number, line.split(delimiter), line
        return
    given: list[str] = []
    whole = csv.reader(iter(given.pop, None), delimiter=delimiter, strict=True)  # reads the line that is given last
    for line in reader.lines:
        reader.number += 1
        if '"' in line:
            given.append(line)
            try:
                cells = next(whole)
            except (csv.Error, IndexError):  # text follows a closing mark, or the line ends before its cell does
                yield reader.quoted_row(line)
            else:
                yield reader.number, cells, line
        elif line and (delimiter in line or line.strip()):
            yield reader.number, line.split(delimiter), line


class _Reader:
    """The lines of a file and how far they were read."""

    def __init__(self, pieces: Iterable[str], name: str, dialect: Dialect) -> None:
        self.name, self.dialect = name, dialect
        self.number = dialect.skip
        self.ended = False
        source = lines(iter(with_line_feeds(pieces)), name, limits.LONGEST_RECORD)
        for _ in range(dialect.skip):
            next(source, None)
        self.lines = map(dialect.unescaped, source) if dialect.escaped else source
        self._well_formed = well_formed(dialect.delimiter)
        csv.field_size_limit(limits.LONGEST_RECORD)

    def quoted_row(self, line: str) -> Row:
        """Return the row that begins with `line`, reading on while a quotation mark is open."""
        first, taken = self.number, [line]
        self.ended = False
        try:
            cells = next(csv.reader(chain((line + "\n",), self._more(taken)), delimiter=self.dialect.delimiter))
        except csv.Error as error:  # a row that is too long
            raise UserError(
                f"{self.name}, line {first} begins {error}: a quotation mark in it is probably never closed."
            ) from error
        raw = taken[0] if len(taken) == 1 else "\n".join(taken)
        if self.ended:
            raise self._never_closed(first, raw)
        if self._well_formed.fullmatch(raw) is None:
            if len(taken) > 1:
                raise self._never_closed(first, raw)
            cells = self._as_written(first, raw)
        return first, cells, raw

    def _more(self, taken: list[str]) -> Iterator[str]:
        size = len(taken[0])
        for line in self.lines:
            self.number += 1
            taken.append(line)
            size += len(line) + 1
            if size > limits.LONGEST_RECORD:
                raise csv.Error(f"a row of more than {limits.LONGEST_RECORD:,} characters")
            yield line + "\n"
        self.ended = True

    def _never_closed(self, first: int, raw: str) -> UserError:
        line = first + raw.count("\n", 0, _opening(raw, self.dialect.delimiter))
        return UserError(
            f"{self.name}, line {line}: a quotation mark that opens there is never closed: close it, or "
            "double it where it is part of the text."
        )

    def _as_written(self, first: int, raw: str) -> list[str]:
        """Return the cells of a line in which text follows a closing mark, so that the marks are part of the text."""
        if '\\"' in raw:
            raise UserError(
                f'{self.name}, line {first} has the mark \\" in a quoted cell, unlike the first rows of the file: '
                'write marks inside a cell as "".'
            )
        cells, delimiter = [], self.dialect.delimiter
        for start, end, is_quoted in cell_spans(raw, delimiter):
            cell = raw[start:end]
            cells.append(cell[1:-1].replace('""', '"') if is_quoted else cell)
        return cells


def cell_spans(raw: str, delimiter: str) -> Iterator[tuple[int, int, bool]]:
    """Yield where each cell of a row begins and ends, and whether it is in quotation marks as it should be."""
    pattern, at = cell_pattern(delimiter), 0
    while True:
        cell = pattern.match(raw, at)
        assert cell is not None
        yield at, cell.end(), cell[1] is not None
        at = cell.end()
        if raw[at : at + 1] != delimiter:
            return
        at += 1


def _opening(raw: str, delimiter: str) -> int:
    """Return the place of the quotation mark in a row that is never closed, or is closed inside a text."""
    for start, end, is_quoted in cell_spans(raw, delimiter):
        if raw[start : start + 1] == '"' and not is_quoted:
            return start
        if raw[end : end + 1] == "\n":
            break
    return 0


def fitted(row: Row, columns: int, name: str, rest: bool, needed: Sequence[int], delimiter: str) -> list[str]:
    """Return the cells of a row, as many as there are columns; cells that are absent are "".

    rest: the last column may hold delimiters that are not quoted, so what is left of the row belongs to it. needed: the
    columns that a row must have. Empty cells beyond the last column are dropped. Raises UserError for other rows.
    """
    line, cells, raw = row
    if len(cells) > columns:
        if not any(cells[columns:]):
            return cells[:columns]
        if not rest:
            raise _wrong_number(line, len(cells), columns, name)
        for number, (start, end, _) in enumerate(cell_spans(raw, delimiter), 1):
            if number == columns:
                if '\\"' in raw[start:end]:
                    raise _wrong_number(line, len(cells), columns, name)
                return [*cells[: columns - 1], raw[start:]]
    if any(column >= len(cells) for column in needed):
        raise _wrong_number(line, len(cells), columns, name)
    return cells + [""] * (columns - len(cells))


def _wrong_number(line: int, count: int, columns: int, name: str) -> UserError:
    verb = "is" if columns == 1 else "are"
    return UserError(
        f"{name}, line {line} has {count} {'cell' if count == 1 else 'cells'} where {columns} {verb} wanted: correct "
        "that row (a cell with a comma, a tab or a line end must be in quotation marks)."
    )
