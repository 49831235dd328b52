"""The running text of a table's rows, for pretraining: (number of the row, its paragraphs).

An empty or null text has no paragraphs; any other value that is not text is an error that names its line. A list
is sentences or paragraphs. Not here: which column is the text (`columns`), the characters of a text (`clean`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from blankfill.corpus.clean import record_paragraphs
from blankfill.corpus.tables.columns import (
    BY_NUMBER,
    EACH_VALUE,
    MISSING,
    USUAL_FIELDS,
    FieldChoice,
    can_be_text,
    cell_at,
    choose_text,
    kind_of,
    missing_field,
)
from blankfill.corpus.tables.json_rows import is_columnwise
from blankfill.corpus.tables.options import TableOptions, roles_of, split_names
from blankfill.corpus.tables.reading import Table
from blankfill.corpus.wiki import extractor_paragraphs
from blankfill.errors import UserError, setting

_EXTRACTOR_FIELDS = frozenset(("id", "url", "title", "text"))


def text_choices(table: Table, options: TableOptions) -> list[FieldChoice]:
    """Return the columns of a table that hold the running text, in order, and record them in `table.choices`.

    Raises UserError for a column that is absent, and where none or several could be the text.
    """
    given = roles_of(options.columns).get("text", ())
    if given:
        names = split_names(given, table.columns)
        table.check_columns(names)
        table.choices = [FieldChoice(table.form, name, "option") for name in names]
        return table.choices
    where, hint = table.name, ""
    if table.kind in ("csv", "tsv", "spreadsheet"):
        where, hint = table.where(table.header), BY_NUMBER
    elif table.sample:
        where = table.where(table.sample[0][0])
    records = [record for _, record in table.sample]
    if not records and table.text_columns is None:
        table.choices = [FieldChoice(table.form, EACH_VALUE, "name")] if not table.columns else []
    if not table.choices:
        typed = table.text_columns is not None
        columns = table.columns if table.text_columns is None else table.text_columns
        table.choices = [choose_text(records, columns, table.form, where, hint, typed)]
    table.check_columns([choice.field for choice in table.choices if choice.field])
    return table.choices


def text_rows(table: Table, choices: list[FieldChoice]) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of the row, paragraphs of its text) for the rows of a table; a row without a text has none."""
    fields = [choice.field for choice in choices]
    rest = fields[-1:] == list(table.columns[-1:]) and len(fields) == 1
    wanted = None if fields == [EACH_VALUE] else fields
    only = fields[0] if len(fields) == 1 else ""
    for number, record in table.rows(wanted, rest):
        try:
            if only and isinstance(record, dict) and "url" not in record and isinstance(record.get(only), str):
                paragraphs = record_paragraphs(record[only])
            else:
                paragraphs = [text for field in fields for text in _record_paragraphs(table, record, field, number)]
        except RecursionError as error:
            where = table.where(number)
            raise UserError(f"{where} is nested too deeply to be read: correct or delete it.") from error
        yield number, paragraphs


def _record_paragraphs(table: Table, record: Any, field: str, number: int) -> list[str]:
    if isinstance(record, str) and field == EACH_VALUE:
        return record_paragraphs(record)
    if not isinstance(record, Mapping):
        raise UserError(
            f"{table.where(number)} holds {kind_of(record)} where an object with a text field is wanted: correct or "
            "delete it."
        )
    if field == "text" and record.keys() >= _EXTRACTOR_FIELDS and isinstance(record["text"], str):
        return extractor_paragraphs(str(record["title"]), record["text"].split("\n"))
    value = cell_at(record, field)
    if value is MISSING:
        raise UserError(
            f"{table.where(number)} {missing_field(record, field)}: choose one with {setting('columns', 'text=NAME')}."
        )
    try:
        return _value_paragraphs(value)
    except TypeError as error:
        raise UserError(
            f"{table.where(number)}: field {field!r} holds {error}, not text: choose another with "
            f"{setting('columns', 'text=NAME')}."
        ) from error


def _value_paragraphs(value: Any) -> list[str]:
    """Return the paragraphs of a text field: a string, or a list of sentences, of paragraphs, or of lists of sentences.

    A list counts as the sentences of one paragraph when its items are short, on one line each, and mostly end like
    sentences. Raises TypeError, whose text names the actual type, for anything else.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return record_paragraphs(value)
    if not isinstance(value, list):
        raise TypeError(kind_of(value))
    if value and all(isinstance(item, str) for item in value):
        ends = sum(item.rstrip().endswith((".", "!", "?", '."', "。", "！", "？", "”", "」")) for item in value)
        if ends * 2 > len(value) and not any("\n" in item.strip() for item in value) and max(map(len, value)) < 1000:
            ascii_ends = any(item.isascii() for item in value)
            return record_paragraphs((" " if ascii_ends else "").join(item.strip() for item in value))
    return list(chain.from_iterable(map(_value_paragraphs, value)))


def is_json_lines(text: str, columns: tuple[str, ...] = ()) -> bool:
    """Return whether `text`, the first lines of a file, can only be JSON Lines: an object with a text on each line."""
    named = [name for names in split_names(roles_of(columns).get("text", ()), ()) for name in (names.split(".")[0],)]
    rows = [row for row in text.split("\n")[:20] if row.strip()]
    records: list[Any] = []
    for row in rows:
        try:
            record = json.loads(row)
            if not isinstance(record, dict) or not _has_text(record, named):
                return False
            records.append(record)
        except (ValueError, RecursionError):
            return False
    return bool(records) and not (len(records) == 1 and is_columnwise(records[0]))


def _has_text(record: dict[str, Any], named: list[str]) -> bool:
    usual = any(name.lower() in USUAL_FIELDS for name in record)
    return usual or any(name in record for name in named) or any(map(can_be_text, record.values()))
