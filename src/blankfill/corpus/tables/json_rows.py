"""Records of JSON files: JSON Lines, an array of objects, objects one after another, and columns side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from blankfill.corpus import limits
from blankfill.corpus.decoding import lines
from blankfill.corpus.limits import too_long
from blankfill.corpus.tables.csv_rows import with_line_feeds
from blankfill.errors import UserError
from blankfill.system.reading import MAY_BE_LONE, mended_value

_LONGEST_WORD = 16
"""Characters of the longest JSON literal or escape, which may be cut in two."""
Where = Callable[[int], str]


def line_values(pieces: Iterator[str], where: Where) -> Iterator[tuple[int, Any]]:
    """Yield (line from 1, value) for each line that is not empty. where: a line → its place, for errors.

    Lone surrogates become U+FFFD. Raises UserError for a line that is not JSON.
    """
    for number, line in enumerate(lines(with_line_feeds(pieces), where, limits.LONGEST_RECORD), 1):
        if line and not line.isspace():
            yield number, json_line(line, number, where)


def json_line(line: str, number: int, where: Where) -> Any:
    """Return the value of a line. Raises UserError that names the line."""
    try:
        value = json.loads(line)
        return mended_value(value) if "\\u" in line and MAY_BE_LONE.search(line) else value
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise UserError(
            f"{where(number)} is not valid JSON ({reason}): correct or delete that line; each line must hold one "
            f"whole JSON object."
        ) from error


def json_values(pieces: Iterator[str], name: str) -> Iterator[Any]:
    """Yield the values of a text that is a JSON array, or arrays or values one after another. Lone surrogates become
    U+FFFD.

    Only one value is in memory at a time. Raises UserError at invalid JSON.
    """
    decoder = json.JSONDecoder()
    text, at, lines_before = "", 0, 0
    ended = False
    # Whether an array is open; None: not known yet.
    array: bool | None = None
    want = 1
    while True:
        # A value that does not parse may be unfinished: double what is read each time, so that a long value costs a
        # logarithmic number of attempts.
        if not ended and len(text) - at < want:
            lines_before += text.count("\n", 0, at)
            parts = [text[at:]]
            size = len(parts[0])
            while size < want and not ended:
                piece = next(pieces, None)
                ended = piece is None
                parts.append(piece or "")
                size += len(parts[-1])
            text, at = "".join(parts), 0
        at = _skip(text, at, " \t\r\n," if array else " \t\r\n")
        if at == len(text):
            if not ended:
                want = 1
                continue
            if array:
                raise UserError(f"{name} ends inside its array: it is truncated, so copy or download it again.")
            return
        if array is None:
            array = text[at] == "["
            if array:
                at += 1
                continue
        if array and text[at] == "]":
            array, at = None, at + 1
            continue
        try:
            value, after = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            long = len(text) - at > limits.LONGEST_RECORD
            if ended or long:
                place = error.pos if isinstance(error, json.JSONDecodeError) else at
                reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                where = f"{name}, line {lines_before + text.count(chr(10), 0, place) + 1}"
                if long and (reason.startswith("Unterminated string") or len(text) - place < _LONGEST_WORD):
                    raise too_long(f"{where}: a record", limits.LONGEST_RECORD, "split it into several") from error
                raise UserError(
                    f"{where} is not valid JSON ({reason}): the file must be one array of objects, or one object after "
                    f"another."
                ) from error
            want = min(max(2 * (len(text) - at), 1 << 16), limits.LONGEST_RECORD + 1)
            continue
        want = 1
        if MAY_BE_LONE.search(text, at, after):
            value = mended_value(value)
        at = after
        yield value


def _skip(text: str, at: int, characters: str) -> int:
    while at < len(text) and text[at] in characters:
        at += 1
    return at


def is_columnwise(value: Any) -> bool:
    """Return whether a JSON object is a table column by column: a list for each column, all equally long; pandas' form
    with an object {"0": …} for each; or pandas' "columns" and "data"."""
    if not isinstance(value, Mapping) or not value:
        return False
    if _is_split(value):
        return True
    columns = list(value.values())
    if all(isinstance(column, list) for column in columns):
        if len(columns) == 1 and all(isinstance(cell, Mapping) for cell in columns[0]):
            return False  # a record with a list of objects, such as the messages of a dialogue
        return len(columns[0]) > 0 and all(len(column) == len(columns[0]) for column in columns)
    if all(isinstance(column, Mapping) for column in columns):
        keys = columns[0].keys()
        return bool(keys) and all(key.isdigit() for key in keys) and all(column.keys() == keys for column in columns)
    return False


def _is_split(value: Mapping[str, Any]) -> bool:
    if not {"columns", "data"} <= value.keys() <= {"columns", "data", "index"}:
        return False
    names, rows = value["columns"], value["data"]
    return (
        isinstance(names, list) and isinstance(rows, list) and all(isinstance(name, str) for name in names)
        and all(isinstance(row, list) and len(row) == len(names) for row in rows)
    )  # fmt: skip


def rows_of_columns(value: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table that is written column by column (`is_columnwise`)."""
    if _is_split(value):
        yield from (dict(zip(value["columns"], row, strict=True)) for row in value["data"])
        return
    columns = [list(column.values()) if isinstance(column, Mapping) else column for column in value.values()]
    yield from (dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True))


def file_values(pieces: Iterator[str], name: str) -> Iterator[tuple[bool, Any]]:
    """Yield (whether the file is written column by column, record) for every record of a JSON file."""
    values = json_values(pieces, name)
    first = next(values, _NOTHING)
    if first is _NOTHING:
        return
    second = next(values, _NOTHING)
    if second is _NOTHING and is_columnwise(first):
        yield from ((True, row) for row in rows_of_columns(first))
        return
    yield False, first
    if second is not _NOTHING:
        yield False, second
        yield from ((False, value) for value in values)


_NOTHING: Any = object()
