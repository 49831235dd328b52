"""Writes tables as CSV, TSV, JSON Lines, Parquet and spreadsheets (.xlsx), rows at a time, whole or not at all.

A column has a type, so that the cells of a Parquet file keep theirs; in CSV files and spreadsheets a list or an object
is JSON, a date ISO 8601, and nothing an empty cell. Not here: which columns there are (`reading`, `answers`).
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import IO, Any, Literal

from blankfill.corpus.tables.parquet_rows import import_parquet, parquet_types
from blankfill.corpus.tables.reading import Table
from blankfill.errors import UserError, setting
from blankfill.system.files import whole_file

ColumnType = Literal["text", "number", "integer", "truth", "texts", "vector", "json"]
Row = Mapping[str, Any]
Write = Callable[[Iterable[Row]], None]

FORMATS: Mapping[str, str] = {
    ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet",
    ".xlsx": "xlsx",
}  # fmt: skip
"""Suffix of a file that can be written → its form."""
LONGEST_CELL, MOST_ROWS = 32_767, 1_048_576
"""Characters of a cell, and rows of a sheet, that a spreadsheet may have."""


@dataclass(frozen=True)
class Column:
    """A column to write. type: of its cells, or the data type of pyarrow that they had in a Parquet file."""

    name: str
    type: ColumnType | Any = "text"


def columns_of(table: Table) -> tuple[Column, ...]:
    """Return all columns of a table with the types of their cells; those of a JSON file are found by reading it."""
    if table.kind == "parquet":
        return tuple(Column(name, kind) for name, kind in parquet_types(table.path, table.name).items())
    if table.kind not in ("json", "jsonl"):
        return tuple(Column(name) for name in table.columns)
    types: dict[str, set[str]] = {}
    for _, row in table.objects():
        for name, value in row.items():
            met = types.setdefault(name, set())
            if value is not None:
                met.add(_type_of(value))
    return tuple(Column(name, _joined(met)) for name, met in types.items())


def delimiter_for(table: Table) -> str:
    """Return the delimiter of a CSV file that is written from a table: its own, unless that is a tab."""
    return table.delimiter if table.delimiter not in ("", "\t") else ","


def free_name(name: str, taken: Collection[str]) -> str:
    """Return a name for a further column of a table: with a number where a column of it is there. taken: the names that
    are there, in small letters."""
    number, free = 1, name
    while free.lower() in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "truth"
    if isinstance(value, int):
        return "integer" if abs(value) < 2**63 else "json"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return "texts" if value else "no texts"
    return "json"


def _joined(types: set[str]) -> Any:
    """Return the type of a column whose cells have these types."""
    if types == {"integer", "number"}:
        return "number"
    if types <= {"texts", "no texts"} and types:
        return "texts"
    return next(iter(types)) if len(types) == 1 else "json" if types else "text"


def format_of(out: Path) -> str:
    """Return the form that a file is written in, by its name; "" for a name of none."""
    return FORMATS.get(out.suffix.lower(), "")


@contextmanager
def table_writer(out: Path, columns: Sequence[Column], delimiter: str = ",") -> Iterator[Write]:
    """Yield a function that writes rows; the complete file gets its final name when the block succeeds.

    delimiter: between the cells of a CSV file. Raises UserError where a package is missing, and for a cell that the
    form cannot hold.
    """
    form = format_of(out)
    with whole_file(out, "wb" if form in ("parquet", "xlsx") else "w", follow=True) as file:
        if form in ("csv", "tsv"):
            yield _csv(file, columns, "\t" if form == "tsv" else delimiter)
        elif form == "jsonl":
            yield lambda rows: file.writelines(json_line(row, columns) for row in rows)
        elif form == "parquet":
            with _parquet(file, columns, out) as write:
                yield write
        else:
            with _spreadsheet(file, columns, out) as write:
                yield write


def json_line(row: Row, columns: Sequence[Column]) -> str:
    """Return a row as a line of JSON; cells that it does not have are left out."""
    values = {column.name: _plain(row[column.name]) for column in columns if column.name in row}
    return json.dumps(values, ensure_ascii=False) + "\n"


def _plain(value: Any) -> Any:
    """Return a cell as JSON can hold it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else str(value)


def cell_text(value: Any) -> str:
    """Return a cell as the text of a CSV file."""
    value = _plain(value)
    if value is None:
        return ""
    if isinstance(value, bool | list | dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _csv(file: IO[str], columns: Sequence[Column], delimiter: str) -> Write:
    buffer = io.StringIO(newline="")
    # With this line end the writer quotes both of its characters.
    writer = csv.writer(buffer, delimiter=delimiter, lineterminator="\r\n")

    def line(cells: Sequence[str]) -> str:
        buffer.seek(0)
        buffer.truncate()
        writer.writerow(cells)
        return buffer.getvalue()[:-2] + "\n"

    def write(rows: Iterable[Row]) -> None:
        file.writelines(line([cell_text(row.get(column.name)) for column in columns]) for row in rows)

    file.write(line([column.name for column in columns]))
    return write


@contextmanager
def _parquet(file: IO[bytes], columns: Sequence[Column], out: Path) -> Iterator[Write]:
    arrow, parquet = import_parquet()
    types = {
        "text": arrow.string(), "number": arrow.float64(), "integer": arrow.int64(), "truth": arrow.bool_(),
        "texts": arrow.list_(arrow.string()), "vector": arrow.list_(arrow.float32()), "json": arrow.string(),
    }  # fmt: skip
    fields = [(column, types[column.type] if isinstance(column.type, str) else column.type) for column in columns]
    schema = arrow.schema([arrow.field(column.name, kind) for column, kind in fields])

    def cell(row: Row, column: Column) -> Any:
        value = row.get(column.name)
        return cell_text(value) if column.type == "json" and value is not None else value

    def write(rows: Iterable[Row]) -> None:
        given = list(rows)
        arrays = []
        for column, kind in fields:
            try:
                arrays.append(arrow.array([cell(row, column) for row in given], kind))
            except (arrow.ArrowException, TypeError, ValueError) as error:
                raise UserError(
                    f"{setting('out', out)}: the cells of {column.name!r} cannot be written as {kind} ({error}); write "
                    "a .jsonl or .csv file"
                ) from error
        written.write_table(arrow.Table.from_arrays(arrays, schema=schema))

    with parquet.ParquetWriter(file, schema) as written:
        yield write


@contextmanager
def _spreadsheet(file: IO[bytes], columns: Sequence[Column], out: Path) -> Iterator[Write]:
    try:
        from openpyxl import Workbook
        from openpyxl.cell import WriteOnlyCell
        from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
    except ImportError as error:
        raise UserError(
            "Writing spreadsheets needs the openpyxl package: pip install 'blankfill[office]', or write a .csv file."
        ) from error
    book = Workbook(write_only=True)
    sheet = book.create_sheet("rows")
    count = 0

    def cell(value: Any) -> Any:
        value = _plain(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        text = cell_text(value)
        if len(text) > LONGEST_CELL:
            raise UserError(
                f"{setting('out', out)}: row {count} has a cell of {len(text):,} characters, and a spreadsheet's holds "
                f"{LONGEST_CELL:,}; write a .csv or .parquet file"
            )
        made = WriteOnlyCell(sheet, value=ILLEGAL_CHARACTERS_RE.sub("\ufffd", text))
        made.data_type = "s"  # a text that begins with = is no formula
        return made

    def append(cells: Sequence[Any]) -> None:
        nonlocal count
        count += 1
        if count > MOST_ROWS:
            raise UserError(
                f"{setting('out', out)}: a spreadsheet has {MOST_ROWS:,} rows at most; write a .csv or .parquet file"
            )
        sheet.append([cell(value) for value in cells])

    def write(rows: Iterable[Row]) -> None:
        for row in rows:
            append([row.get(column.name) for column in columns])

    append([column.name for column in columns])
    yield write
    book.save(file)
