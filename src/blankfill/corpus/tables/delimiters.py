"""How a CSV file writes its cells, found by its beginning: delimiter, quotation marks, a line `sep=`.

The delimiter is the one that cuts the header and the first rows into equally many cells. Where the rows have more cells
than the header (unquoted commas in a text), it is the one that every row has at least as often as the header.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

CANDIDATES = (",", ";", "\t", "|")
NONE = "\x00"
"""The delimiter of a file with one column: text cannot hold it."""
LOOKED_AT = 100
"""Number of rows that decide about a file's form."""
_SEPARATOR = re.compile(r'"?sep=(.)"?\Z', re.IGNORECASE)
_BACKSLASH = re.compile(r'\\(["\\])')


@dataclass(frozen=True)
class Dialect:
    """How cells are written.

    quoted: a cell may be in quotation marks; otherwise they are text. escaped: a mark inside such a cell is written
    with a backslash. skip: number of lines before the header.
    """

    delimiter: str
    quoted: bool = True
    escaped: bool = False
    skip: int = 0

    @property
    def form(self) -> str:
        """The form, for people: "CSV, ';'"."""
        if self.delimiter == NONE:
            return "CSV, one column"
        return f"CSV, {'tab' if self.delimiter == chr(9) else repr(self.delimiter)}"

    def unescaped(self, line: str) -> str:
        """Return a line with marks doubled where they are written with a backslash."""
        if not self.escaped or "\\" not in line:
            return line
        return _BACKSLASH.sub(lambda mark: '""' if mark[1] == '"' else mark[1], line)


@lru_cache(maxsize=8)
def well_formed(delimiter: str) -> re.Pattern[str]:
    """Compile a pattern that matches a whole row in which every quoted cell ends at a delimiter or the row's end."""
    mark = re.escape(delimiter)
    return re.compile(rf'(?:"[^"]*+(?:""[^"]*+)*+"|[^"{mark}\n][^{mark}\n]*+)?+(?:{mark}(?:"[^"]*+(?:""[^"]*+)*+"|'
                      rf'[^"{mark}\n][^{mark}\n]*+)?+)*+\n?')  # fmt: skip


@lru_cache(maxsize=8)
def cell_pattern(delimiter: str) -> re.Pattern[str]:
    """Compile a pattern for one cell as it is written: group 1 where it is quoted as it should be, 2 where text follows
    its closing mark, else plain."""
    mark = re.escape(delimiter)
    quoted = r'"[^"]*+(?:""[^"]*+)*+"'
    return re.compile(rf"({quoted})(?=[{mark}\n]|\Z)|({quoted}[^{mark}\n]*+)|[^{mark}\n]*+")


def find_dialect(head: str, complete: bool, delimiter: str | None = None, preferred: str = ",") -> Dialect:
    """Return how a file writes its cells.

    head: its beginning, with line feeds. complete: it is the whole file. delimiter: known in advance. preferred: that
    of the file's name, which decides between equals.
    """
    first, _, rest = head.partition("\n")
    skip = 0
    if stated := _SEPARATOR.match(first.strip()):
        skip, head = 1, rest
        delimiter = delimiter or stated[1]
    if not complete:
        head = head[: head.rfind("\n") + 1] or head
    if delimiter is not None:
        return _quoting(head, delimiter, skip)
    order = sorted(CANDIDATES, key=lambda mark: mark != preferred)
    best, best_score = Dialect(NONE), (0.0, 0.0, 0)
    for mark in order:
        dialect = _quoting(head, mark, skip)
        rows = _parsed(head, dialect)
        cells = len(rows[0]) if rows else 0
        if cells < 2:
            continue
        others = rows[1:] or rows
        equal = sum(len(row) == cells for row in others) / len(others)
        enough = sum(len(row) >= cells for row in others) / len(others)
        score = (equal, enough, cells)
        if score > best_score:
            best, best_score = dialect, score
    if best.delimiter == NONE:
        rows = _parsed(head, Dialect(","))
        plain = any(len(row) != 1 for row in rows) or _faults(head, Dialect(","), 1)
        return Dialect(NONE, not plain, skip=skip)
    return best


def _quoting(head: str, mark: str, skip: int) -> Dialect:
    """Return the dialect of a delimiter: whether cells are quoted, and how marks inside them are written."""
    if mark == "\t" and not is_quoted(head):
        bare, quoted = Dialect(mark, False, skip=skip), Dialect(mark, skip=skip)
        cells = len(next(iter(_parsed(head, bare)), []))
        if not any(len(row) != cells for row in _parsed(head, bare)) or _faults(head, quoted, cells):
            return bare  # quotation marks are read as such where the rows have equally many cells with them only
    plain, escaped = Dialect(mark, skip=skip), Dialect(mark, escaped=True, skip=skip)
    if '\\"' in head:
        rows = _parsed(head, plain)
        cells = len(rows[0]) if rows else 0
        if _faults(head, escaped, cells) < _faults(head, plain, cells):
            return escaped
    return plain


def is_quoted(head: str) -> bool:
    """Return whether a TSV file quotes its fields: every field that opens with a quotation mark also ends with one.

    Most TSV files (GLUE's, for example) quote no field, and their texts are full of unpaired quotation marks.
    """
    cells = [cell for line in head.split("\n")[:500] for cell in line.rstrip("\r").split("\t") if cell[:1] == '"']
    return bool(cells) and all(len(cell) > 1 and cell.endswith('"') for cell in cells)


def _raw_rows(head: str, dialect: Dialect) -> Iterator[tuple[list[str], str]]:
    """Yield the cells of the first rows and their text, but not a last row that an open quotation mark swallows."""
    lines = iter([dialect.unescaped(line) for line in head.split("\n")])
    for line in lines:
        if not line.strip():
            continue
        taken = [line]
        if not dialect.quoted or '"' not in line:
            yield line.split(dialect.delimiter), line
            continue
        ended = False

        def more(taken: list[str] = taken) -> Iterator[str]:
            nonlocal ended
            yield taken[0] + "\n"
            for line in lines:
                taken.append(line)
                yield line + "\n"
            ended = True

        try:
            cells = next(csv.reader(more(), delimiter=dialect.delimiter))
        except csv.Error:
            return
        if ended:
            return
        yield cells, "\n".join(taken)


def _parsed(head: str, dialect: Dialect) -> Sequence[list[str]]:
    rows: list[list[str]] = []
    for cells, _ in _raw_rows(head, dialect):
        while len(cells) > 1 and not cells[-1] and rows and len(cells) > len(rows[0]):
            cells.pop()
        rows.append(cells)
        if len(rows) == LOOKED_AT:
            break
    return rows


def _faults(head: str, dialect: Dialect, cells: int) -> int:
    """Count the first rows that have another number of cells, or text behind a closing mark."""
    faults = 0
    for number, (row, raw) in enumerate(_raw_rows(head, dialect)):
        faults += len(row) != cells or well_formed(dialect.delimiter).fullmatch(raw) is None
        if number == LOOKED_AT:
            break
    return faults
