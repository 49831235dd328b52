"""Whether a file that is given to `predict`, `embed` or `fill` is a table or lines of text, and the texts of a table.

The name decides, then the first bytes; a file without the name of a table is one where an option of tables is given, or
where its first line names the column of the text. Not here: the columns of tasks (`tasks.datasets.predicted`).
"""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blankfill.corpus.compression import open_binary, sniff_compression
from blankfill.corpus.limits import LONGEST_GIVEN, too_long
from blankfill.corpus.tables.columns import EACH_VALUE, MISSING, USUAL_FIELDS, cell_at, kind_of
from blankfill.corpus.tables.delimiters import CANDIDATES
from blankfill.corpus.tables.options import TableOptions, roles_of
from blankfill.corpus.tables.parquet_rows import is_parquet
from blankfill.corpus.tables.prose import is_json_lines, text_choices
from blankfill.corpus.tables.reading import open_table, table_kind
from blankfill.corpus.tables.writing import Column, columns_of
from blankfill.errors import ConfigError, UserError, setting
from blankfill.system.console import say
from blankfill.system.files import is_special
from blankfill.system.reading import readable

_HEAD = 1 << 16


def given_kind(path: Path, options: TableOptions, names: Collection[str]) -> str:
    """Return the kind of table that a file is (`reading.KINDS`), or "" for lines of text; say which was chosen where it
    could be both.

    names: of columns, in small letters, one of which the first line of a table has.
    """
    if is_special(path):
        return ""
    kind = table_kind(path)
    if kind not in ("", "json"):
        return kind
    with readable(path), path.open("rb") as stream:
        compression = sniff_compression(stream.read(16))
    with readable(path), open_binary(str(path), compression) as opened:
        head = opened.read(_HEAD)
    if not compression and head.startswith(b"PAR1") and is_parquet(str(path)):
        return "parquet"
    text = head.decode("utf-8-sig", "replace")
    if kind == "json":
        return "jsonl" if is_json_lines(text, options.columns) else "json"
    if _is_array(text):
        return "json"
    if options.table_options() != TableOptions(encoding=options.encoding):
        return "jsonl" if is_json_lines(text, options.columns) else "csv"
    first = text.split("\n", 1)[0].strip("\r")
    for mark in CANDIDATES:
        cells = [cell.strip().lower() for cell in next(csv.reader([first], delimiter=mark), [])]
        if len(cells) > 1 and all(cells) and len(set(cells)) == len(cells) and set(cells) & set(names):
            name = next(cell for cell in cells if cell in names)
            say(f"{path} is read as a table, since its first line names the column {name!r}")
            return "csv"
    if first.strip().lower() in names:
        say(
            f"{path} is read as lines of text, the first of which is {first.strip()!r}; if that is a header, end the "
            "name of the file in .csv"
        )
    return ""


def _is_array(text: str) -> bool:
    """Return whether a text is the beginning of a JSON array of objects, or of lists."""
    begun = text.lstrip()
    if not begun.startswith("["):
        return False
    inner = begun[1:].lstrip()
    if inner.startswith("{"):
        return True
    try:
        json.loads(begun.split("\n", 1)[0])
    except (ValueError, RecursionError):
        return False
    return True


@dataclass(frozen=True)
class TextRow:
    """A row of a table and its text, "" for an empty cell. where: its place, for messages. cells: by name."""

    where: str
    cells: Mapping[str, Any]
    text: str


class TextTable:
    """A table with a column of texts, in the order of its rows. table: how it was opened. fields: the columns of the
    text."""

    def __init__(self, path: Path, kind: str, options: TableOptions, remembered: tuple[str, ...] = ()) -> None:
        """Open a table, choose the column of its text as `prepare` does, and say which.

        remembered: names of the columns that a model was trained on, which are taken where the table has them and
        `options` names none. Raises UserError.
        """
        if problems := options.table_problems(("text",)):
            raise ConfigError(problems)
        options = options.table_options()
        self.table = open_table(path, options, kind=kind)
        if "text" not in roles_of(options.columns) and remembered and set(remembered) <= set(self.table.columns):
            options = replace(options, columns=(*options.columns, f"text={','.join(remembered)}"))
        choices = text_choices(self.table, options)
        self.fields = [choice.field for choice in choices]
        named = ", ".join(repr(field) for field in self.fields if field)
        say(f"{path}: {self.table.form}; text {named}" if named else f"{path}: {self.table.form}, each value a text")
        for note in self.table.notes:
            say(note)
        self._said = len(self.table.notes)

    @property
    def columns(self) -> tuple[Column, ...]:
        """All columns, with the types of their cells."""
        return (Column("text"),) if self.fields == [EACH_VALUE] else columns_of(self.table)

    def rows(self) -> Iterator[TextRow]:
        """Yield every row. Raises UserError for a cell that is no text, and where there are no rows."""
        fields, empty = self.fields, True
        rest = len(fields) == 1 and tuple(fields) == self.table.columns[-1:]
        for number, record in self.table.rows(rest=rest):
            where, empty = self.table.where(number), False
            if fields == [EACH_VALUE]:
                yield TextRow(where, {"text": record}, _text(record, EACH_VALUE, where))
                continue
            if not isinstance(record, Mapping):
                raise UserError(f"{where} is not a JSON object: each {self.table.unit} must hold one.")
            text = " ".join(part for part in (_text(cell_at(record, field), field, where) for field in fields) if part)
            if len(text) > LONGEST_GIVEN:
                raise too_long(f"{where}: its text", LONGEST_GIVEN, "split it over several rows")
            yield TextRow(where, record, text)
        if empty:
            raise UserError(f"{self.table.name} has no rows: give a file that holds some.")
        for note in self.table.notes[self._said :]:
            say(note)


def _text(value: Any, field: str, where: str) -> str:
    if isinstance(value, str):
        return value.strip()
    if value is None or value is MISSING:
        return ""
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return " ".join(part.strip() for part in value)
    place = f" in {field!r}" if field else ""
    raise UserError(
        f"{where} has {kind_of(value)}{place} where a text is wanted: correct it, or name another column with "
        f"{setting('columns', 'text=NAME')}."
    )


USUAL_NAMES = frozenset(USUAL_FIELDS)
