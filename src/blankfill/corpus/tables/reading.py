"""Opens a table of any form: what it is, its columns, a sample of its rows, and all rows as a stream.

A `Table` reads the beginning of its file once, to find its form, and the file itself as often as `rows` is called; it
holds one row at a time (Parquet: a batch; a spreadsheet: its sheet). A row that cannot be read is an error that names
its line, never a silent loss. Cells of CSV files and spreadsheets are texts; those of JSON and Parquet are typed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blankfill.corpus import limits
from blankfill.corpus.compression import compression_of, open_binary, plain_suffix
from blankfill.corpus.decoding import read_text
from blankfill.corpus.encodings import decide_encoding
from blankfill.corpus.tables import json_rows
from blankfill.corpus.tables.columns import FieldChoice, listed, nearest
from blankfill.corpus.tables.csv_rows import csv_rows, fitted, with_line_feeds
from blankfill.corpus.tables.delimiters import CANDIDATES, find_dialect
from blankfill.corpus.tables.options import TableOptions, all_numbers, roles_of, split_names
from blankfill.corpus.tables.parquet_rows import parquet_columns, parquet_rows
from blankfill.corpus.tables.spreadsheet_rows import ARCHIVES, spreadsheet_rows
from blankfill.corpus.tables.spreadsheet_rows import SUFFIXES as SPREADSHEETS
from blankfill.errors import Problem, UserError, setting
from blankfill.system.reading import STAND_IN, readable, regular_size, substitute

KINDS: Mapping[str, str] = {
    "csv": "csv", "tsv": "tsv", "tab": "tsv", "jsonl": "jsonl", "ndjson": "jsonl", "jsonlines": "jsonl", "json": "json",
    "parquet": "parquet", "pq": "parquet",
} | dict.fromkeys(SPREADSHEETS, "spreadsheet")  # fmt: skip
"""Suffix → kind of table."""
ENDINGS = ("csv", "tsv", "jsonl", "json", "parquet", *SPREADSHEETS)
"""The suffixes that a folder is searched for, the likeliest first."""
FORMS: Mapping[str, str] = {"parquet": "a Parquet file", "spreadsheet": "a spreadsheet"}
"""Forms that are no text."""
_SUFFIXES: Mapping[str, str] = {"parquet": ".parquet", "spreadsheet": ".xlsx"}
RENAME = "give its name the suffix of its form, such as .csv"
SAMPLE_ROWS = 100
SAMPLE_CHARACTERS = 1 << 20
"""Rows, and characters of JSON, that decide about a table's columns, at most; but one row at least."""
HEAD_CHARACTERS = 1 << 17
"""Characters of a CSV file that decide about its form."""

Row = Mapping[str, Any]


def table_kind(path: str | Path) -> str:
    """Return the kind of a table by the suffix of its name ("csv", "tsv", "jsonl", "json", "parquet", "spreadsheet"),
    "" where it is the name of no table."""
    return KINDS.get(plain_suffix(path).lstrip("."), "")


def _check_form(name: str, kind: str, head: bytes) -> None:
    """Raise UserError for a file whose first bytes are not those of the form that its name says."""
    if what := substitute(head):
        raise UserError(f"{name} is {what}, not a table: download the file itself.")
    actual = "parquet" if head.startswith(b"PAR1") else "spreadsheet" if head.startswith(ARCHIVES) else ""
    is_text = not re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", head)
    if is_text and kind in FORMS and actual != kind:
        raise UserError(f"{name} is text, and its name is that of {FORMS[kind]}: {RENAME}.")
    if not is_text and actual and actual != kind:
        raise UserError(f"{name} is {FORMS[actual]}: give its name the suffix {_SUFFIXES[actual]}.")


@dataclass
class Table:
    """An open table.

    name: of the file, for messages. form: for people, such as "CSV, ';'". delimiter: between the cells of a CSV file.
    unit: what numbers of rows count, "line", "row" or "record". columns: names, in order; of JSON those of the
    sample. text_columns: those that can be text by their type, where columns have types. header: the line of the
    header, 0 without one. sample: the first rows. notes: what was decided, a sentence each; complete only after `rows`.
    choices: the columns that were chosen, for reports.
    """

    path: str
    name: str
    kind: str
    form: str
    unit: str
    columns: tuple[str, ...] = ()
    text_columns: tuple[str, ...] | None = None
    header: int = 0
    sample: list[tuple[int, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    choices: list[FieldChoice] = field(default_factory=list)
    twice: frozenset[str] = frozenset()
    delimiter: str = ""
    _source: _Source | None = field(default=None, repr=False)

    def where(self, number: int) -> str:
        """Return the place of a row, for a message."""
        assert self._source is not None
        return self._source.where(number)

    def rows(self, fields: Sequence[str] | None = None, rest: bool = False) -> Iterator[tuple[int, Any]]:
        """Yield (line, row or record from 1; its cells by name) for every row, from the beginning.

        The number is that within the range of the file that is read, except for Parquet. A JSON record may be any
        value: see `objects`. fields: columns that are needed (dotted names too); others may be left out, and absent in
        a short row of CSV. rest: the last column of a CSV file may hold delimiters that are not quoted.
        """
        assert self._source is not None
        return self._source.rows(self, fields, rest)

    def objects(self, rest: bool = False) -> Iterator[tuple[int, Row]]:
        """Yield (number, cells by name) for every row; UserError for a JSON record that is not an object.

        rest: see `rows`.
        """
        for number, record in self.rows(rest=rest):
            if not isinstance(record, Mapping):
                raise UserError(f"{self.where(number)} is not a JSON object: each {self.unit} must hold one.")
            yield number, record

    def check_columns(self, names: Sequence[str]) -> None:
        """Raise UserError for a column that is absent, and for one whose name the header has twice."""
        known = set(self.columns)
        for name in names:
            if name in self.twice:
                raise UserError(f"{self.name} has two columns that are called {name!r}: give each a name of its own.")
            if self.kind in ("jsonl", "json") or name in known:
                continue
            if self.kind == "parquet" and name.split(".")[0] in known:
                continue
            if not self.header and self.kind != "parquet":
                raise UserError(f"{self.name} has no column {name}: its {len(known)} columns count from 1.")
            raise UserError(
                f"{self.name} has no column {name!r}; its columns are {listed(self.columns)}; choose with "
                f"{setting('columns')}{nearest(name, self.columns) or '.'}"
            )


def open_table(
    path: str | Path, options: TableOptions | None = None, *, kind: str = "", compression: str | None = None,
    start: int = 0, end: int | None = None, name: str = "", encoding: str = "",
) -> Table:  # fmt: skip
    """Open a table. Raises UserError for a file that is not a table, or cannot be read as the one it seems to be.

    kind: as `table_kind` returns it, and by default from the name of the file. compression: "" for none, None to
    detect it. start, end: the range that `rows` yields, in bytes of JSON Lines and row groups of Parquet; the sample is
    always that of the beginning. name: of the file, for messages, where it is not the path. encoding: as decided
    already; without it, it is decided, and what the user has to know about it is in `Table.notes`.
    """
    options = options or TableOptions()
    path, name = str(path), name or str(path)
    by_name = kind in ("", table_kind(path))
    kind = kind or table_kind(path)
    if not kind:
        raise UserError(
            f"{name} must be named .csv, .tsv, .jsonl, .json, .parquet or .xlsx, so that its form is known."
        )
    if compression is None:
        regular_size(Path(path))
        compression = compression_of(path)
        if by_name and not compression:
            with readable(Path(path)), Path(path).open("rb") as raw:
                _check_form(name, kind, raw.read(STAND_IN))
    notes: list[str] = []
    if not encoding and kind not in ("parquet", "spreadsheet"):
        decided = decide_encoding(path, compression, options.encoding, name)
        encoding, notes = decided.name, decided.remarks(name)
    table = _SOURCES[kind](path, name, kind, compression, options, start, end, encoding).open()
    table.notes[:0] = notes
    return table


class _Source:
    """A file of one form: opens its table, and yields its rows."""

    unit = "line"

    def __init__(
        self, path: str, name: str, kind: str, compression: str, options: TableOptions, start: int, end: int | None,
        encoding: str,
    ) -> None:  # fmt: skip
        self.path, self.name, self.kind, self.compression, self.options = path, name, kind, compression, options
        self.start, self.end, self.encoding = start, end, encoding
        self._lines_before: int | None = None

    def open(self) -> Table:
        """Return the table."""
        raise NotImplementedError

    def rows(self, table: Table, fields: Sequence[str] | None, rest: bool) -> Iterator[tuple[int, Any]]:
        """Yield the rows: see `Table.rows`."""
        raise NotImplementedError

    def where(self, number: int) -> str:
        """Return the place of a row; lines are counted from the start of the file, and only for an error."""
        return f"{self.name}, {self.unit} {number}"

    def _table(self, form: str, **values: Any) -> Table:
        return Table(self.path, self.name, self.kind, form, self.unit, _source=self, **values)

    def _text(self, start: int = 0, end: int | None = None) -> Iterator[str]:
        return read_text(self.path, self.compression, self.encoding, start, end, self.name)


class _JsonLines(_Source):
    def open(self) -> Table:
        sample = _bounded(json_rows.line_values(self._text(), lambda number: f"{self.name}, line {number}"))
        return self._table("JSON Lines", columns=_names(sample), sample=sample)

    def rows(self, table: Table, fields: Sequence[str] | None, rest: bool) -> Iterator[tuple[int, Any]]:
        return json_rows.line_values(self._text(self.start, self.end), self.where)

    def where(self, number: int) -> str:
        if self._lines_before is None:
            self._lines_before = 0
            with open_binary(self.path, self.compression) as stream:
                left = self.start
                while data := stream.read(min(left, 1 << 20)):
                    self._lines_before += data.count(b"\n")
                    left -= len(data)
        return f"{self.name}, line {self._lines_before + number}"


class _Json(_Source):
    unit = "record"

    def open(self) -> Table:
        self._columnwise = False
        sample = _bounded(self._values())
        form = "JSON, column by column" if self._columnwise else "JSON"
        return self._table(form, columns=_names(sample), sample=sample)

    def _values(self) -> Iterator[tuple[int, Any]]:
        for number, (columnwise, value) in enumerate(json_rows.file_values(self._text(), self.name), 1):
            self._columnwise = columnwise
            yield number, value

    def rows(self, table: Table, fields: Sequence[str] | None, rest: bool) -> Iterator[tuple[int, Any]]:
        return self._values()


class _Parquet(_Source):
    unit = "row"

    def open(self) -> Table:
        columns = parquet_columns(self.path, self.name)
        texts = tuple(name for name, is_text in columns.items() if is_text)
        return self._table("Parquet", columns=tuple(columns), text_columns=texts)

    def rows(self, table: Table, fields: Sequence[str] | None, rest: bool) -> Iterator[tuple[int, Any]]:
        columns = None
        if fields is not None:
            columns = [name if name in table.columns else name.split(".")[0] for name in fields]
        return parquet_rows(self.path, self.name, self.start, self.end, columns)


class _Cells(_Source):
    """A form whose first row is a header, and whose cells are texts."""

    def _headed(self, form: str, rows: Iterator[tuple[int, list[str]]]) -> Table:
        """Return the table, given the first rows and more."""
        first = next(rows, None)
        line, cells = first if first is not None else (0, [])
        cells = [cell.strip() for cell in cells]
        numbered = all(cell.isdigit() for cell in cells) and set(_given_names(self.options)) <= set(cells)
        if all_numbers(self.options.columns) and not numbered:
            return self._table(form, columns=tuple(str(number + 1) for number in range(len(cells))))
        if first is None:
            raise UserError(f"{self.name} is empty: give a file that holds a table.")
        if not any(cells):
            raise UserError(
                f"{self.name} has no header line: give the text's column by number, such as "
                f"{setting('columns', 'text=1')}."
            )
        names: dict[str, None] = {}  # in order
        for number, cell in enumerate(cells, 1):
            label = cell or f"column {number}"
            while label in names:
                label += f" ({number})"
            names[label] = None
        twice = frozenset(cell for cell, count in Counter(cells).items() if cell and count > 1)
        return self._table(form, columns=tuple(names), header=line, twice=twice)

    def _sample(self, table: Table, rows: Iterator[tuple[int, list[str]]]) -> list[tuple[int, Any]]:
        sample: list[tuple[int, Any]] = []
        for line, cells in rows:
            if line != table.header:
                sample.append((line, dict(zip(table.columns, cells, strict=False))))
            if len(sample) == SAMPLE_ROWS:
                break
        return sample


class _Csv(_Cells):
    def open(self) -> Table:
        pieces = with_line_feeds(self._text())
        parts, size, complete, has_line = [], 0, False, False
        while size < HEAD_CHARACTERS or not (has_line or size > limits.LONGEST_RECORD):
            piece = next(pieces, None)
            if piece is None:
                complete = True
                break
            parts.append(piece)
            size, has_line = size + len(piece), has_line or "\n" in piece
        head = "".join(parts)
        preferred = "\t" if self.kind == "tsv" else ","
        self._dialect = find_dialect(head, complete, self.options.delimiter_character(), preferred)
        table = self._headed(self._form(), self._first_rows(head, complete))
        table.delimiter = self._dialect.delimiter if self._dialect.delimiter in CANDIDATES else ""
        table.sample = self._sample(table, self._first_rows(head, complete))
        return table

    def _form(self) -> str:
        return "TSV" if self.kind == "tsv" and self._dialect.delimiter == "\t" else self._dialect.form

    def _first_rows(self, head: str, complete: bool) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows that the beginning of the file holds as a whole."""
        if not complete:
            head = head[: head.rfind("\n") + 1]
        try:
            for line, cells, _ in csv_rows([head], self.name, self._dialect):
                yield line, cells
        except UserError:
            if complete:
                raise

    def rows(self, table: Table, fields: Sequence[str] | None, rest: bool) -> Iterator[tuple[int, Any]]:
        columns, name, delimiter = table.columns, self.name, self._dialect.delimiter
        count = len(columns)
        places = range(count) if fields is None else [columns.index(field) for field in fields]
        wanted = None if fields is None else list(zip(fields, places, strict=True))
        longer, first = 0, 0
        for row in csv_rows(self._text(), name, self._dialect):
            line, cells, _ = row
            if line == table.header:
                continue
            if len(cells) != count:
                if len(cells) > count and any(cells[count:]):
                    longer, first = longer + 1, first or line
                cells = fitted(row, count, name, rest, places, delimiter)
            if wanted is None:
                yield line, dict(zip(columns, cells, strict=True))
            else:
                yield line, {field: cells[place] for field, place in wanted}
        if longer:
            rows = "1 row has" if longer == 1 else f"{longer:,} rows have"
            note = (
                f"{name}: {rows} more cells than the header; the rest of such a row was read as part of "
                f"{columns[-1]!r} (the first is line {first})."
            )
            if note not in table.notes:  # the rows may be read again
                table.notes.append(note)


class _Spreadsheet(_Cells):
    unit = "row"

    def open(self) -> Table:
        title, names, self._rows = spreadsheet_rows(self.path, self.name, self.options.sheet)
        if not self._rows:
            raise UserError(f"{self.name} has no rows in sheet {title!r}: choose another with {setting('sheet')}.")
        table = self._headed(f"spreadsheet, sheet {title!r}", iter(self._rows))
        table.sample = self._sample(table, iter(self._rows))
        if len(names) > 1 and self.options.sheet is None:
            table.notes.append(
                Problem(
                    f"{self.name} has {len(names)} sheets ({listed(names)}), of which {title!r} is read: choose "
                    f"another with {setting('sheet')}."
                )
            )
        return table

    def rows(self, table: Table, fields: Sequence[str] | None, rest: bool) -> Iterator[tuple[int, Any]]:
        for line, cells in self._rows:
            if line != table.header:
                yield line, dict(zip(table.columns, cells, strict=True))


_SOURCES: Mapping[str, type[_Source]] = {
    "csv": _Csv, "tsv": _Csv, "jsonl": _JsonLines, "json": _Json, "parquet": _Parquet, "spreadsheet": _Spreadsheet,
}  # fmt: skip


def _bounded(rows: Iterator[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """Return the first records of a JSON file."""
    sample: list[tuple[int, Any]] = []
    size = 0
    for row in rows:
        sample.append(row)
        size += _characters(row[1])
        if len(sample) == SAMPLE_ROWS or size > SAMPLE_CHARACTERS:
            break
    return sample


def _characters(value: Any) -> int:
    """Return about how many characters a record has, without a look into nested lists."""
    values = value.values() if isinstance(value, Mapping) else (value,)
    return sum(len(item) if isinstance(item, str) else 100 * len(item) if isinstance(item, list | dict) else 1
               for item in values)  # fmt: skip


def _names(sample: Sequence[tuple[int, Any]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for _, row in sample if isinstance(row, Mapping) for name in row))


def _given_names(options: TableOptions) -> tuple[str, ...]:
    return split_names([name for names in roles_of(options.columns).values() for name in names], ())
