"""Records to texts: JSON Lines, JSON, CSV, TSV and Parquet, with the field that holds the text named or guessed.

Every reader yields (record's number, its paragraphs) and holds one record at a time (Parquet: a batch of rows). A
record that cannot be read is an error that names its line or row, never a silent loss; an empty or null text is
skipped. Not here: detecting the format of a file (`sources`), cleaning characters (`clean`).
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from itertools import chain, islice
from pathlib import Path
from typing import Any

from blankfill.corpus.clean import record_paragraphs
from blankfill.corpus.compression import open_binary
from blankfill.corpus.decoding import lines, read_text
from blankfill.corpus.limits import LARGEST_COLUMN, LARGEST_RATIO, LONGEST_RECORD, too_long
from blankfill.corpus.wiki import extractor_paragraphs
from blankfill.errors import UserError, setting

USUAL_FIELDS = (
    "text", "content", "contents", "body", "article", "document", "passage", "paragraph", "paragraphs", "story",
    "raw_content", "raw_text", "full_text", "fulltext", "正文", "文本", "内容",
)  # fmt: skip
"""Field names that mean the running text, whatever other strings a record has; "text" outranks the others."""

_NOT_TEXT = frozenset(
    (
        "id",
        "_id",
        "idx",
        "uid",
        "uuid",
        "guid",
        "url",
        "link",
        "label",
        "split",
        "lang",
        "language",
        "date",
        "timestamp",
    )
)
_NUMBER = re.compile(r"[\s\d.,eE+\-:/%]*")
_EXTRACTOR_FIELDS = frozenset(("id", "url", "title", "text"))
_LONGEST_WORD = 16
"""Characters of the longest JSON literal or escape, which may be cut in two."""
_ROWS_LOOKED_AT = 50
_PARQUET_ROWS = 256
_BY_NUMBER = ", by its number (from 1) where there is no header line"

Record = tuple[int, list[str]]


def read_jsonl(
    path: str, compression: str, start: int, end: int | None, encoding: str, field: str | None, name: str
) -> Iterator[Record]:
    """Yield (number within this range, paragraphs) for each line in bytes [start, end) of a JSON Lines file.

    field: the field with the text, dots lead into objects; None guesses it from the first record of the file. A line
    may also be a bare string. Raises UserError for a line that is not JSON or has no such field.
    """
    fault = _Fault(path, compression, start, name)
    if field is None and start:
        # Every range of one file must read the same field, so it is guessed from the file's beginning.
        whole = _Fault(path, compression, 0, name)
        for line in lines(read_text(path, compression, encoding, name=name), whole.where):
            if line.strip():
                field, _ = _read_record(_json_line(line, 1, whole), field, 1, whole)
                break
    for number, line in enumerate(lines(read_text(path, compression, encoding, start, end, name), fault.where), 1):
        if not line.strip():
            continue
        field, paragraphs = _read_record(_json_line(line, number, fault), field, number, fault)
        if paragraphs:
            yield number, paragraphs


class _Fault:
    """Describes where in a file a faulty record is; lines are counted from the start of the file, and only for an
    error."""

    def __init__(self, path: str, compression: str, start: int, name: str, unit: str = "line") -> None:
        self._path, self._compression, self._start, self._name, self._unit = path, compression, start, name, unit

    def where(self, number: int) -> str:
        before = 0
        if self._start:
            with open_binary(self._path, self._compression) as stream:
                left = self._start
                while left:
                    data = stream.read(min(left, 1 << 20))
                    before += data.count(b"\n")
                    left -= len(data)
        return f"{self._name}, {self._unit} {before + number}"


def _json_line(line: str, number: int, fault: _Fault) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise UserError(
            f"{fault.where(number)} is not valid JSON ({reason}): correct or delete that line; each line must hold one "
            f"whole JSON object."
        ) from error


def read_json(path: str, compression: str, encoding: str, field: str | None, name: str) -> Iterator[Record]:
    """Yield (number, paragraphs) for each object of a JSON file: an array of objects, or objects one after another.

    Objects may be spread over lines. Only one object is in memory at a time, so a file that is one big object is read
    whole. Raises UserError naming the record and line where the JSON breaks, and for a missing field.
    """
    fault = _Fault(path, compression, 0, name, "record")
    for number, record in enumerate(json_values(read_text(path, compression, encoding, name=name), name), 1):
        field, paragraphs = _read_record(record, field, number, fault)
        if paragraphs:
            yield number, paragraphs


def json_values(pieces: Iterator[str], name: str) -> Iterator[Any]:
    """Yield the values of a text that is one JSON array, or values one after another. Raises UserError at invalid
    JSON."""
    decoder = json.JSONDecoder()
    text, at, lines_before = "", 0, 0
    ended = False
    # None: not known yet; then whether the file is one array.
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
            return
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            long = len(text) - at > LONGEST_RECORD
            if ended or long:
                place = error.pos if isinstance(error, json.JSONDecodeError) else at
                reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                where = f"{name}, line {lines_before + text.count(chr(10), 0, place) + 1}"
                if long and (reason.startswith("Unterminated string") or len(text) - place < _LONGEST_WORD):
                    raise too_long(f"{where}: a record", LONGEST_RECORD, "split it into several") from error
                raise UserError(
                    f"{where} is not valid JSON ({reason}): the file must be one array of objects, or one object after "
                    f"another."
                ) from error
            want = min(max(2 * (len(text) - at), 1 << 16), LONGEST_RECORD + 1)
            continue
        want = 1
        yield value


def _skip(text: str, at: int, characters: str) -> int:
    while at < len(text) and text[at] in characters:
        at += 1
    return at


def read_csv(
    path: str, compression: str, encoding: str, field: str | None, name: str, delimiter: str | None
) -> Iterator[Record]:
    r"""Yield (number of the row's last line, paragraphs) for each row of a CSV or TSV file.

    field: a column's name in the header; a number counts columns from 1 and means that there is no header; None
    guesses. delimiter: "\t" for TSV, None for CSV, where ";" and tabs are recognised in the first line. Raises
    UserError for a missing column, a row that is too short, and a quotation mark that is never closed.
    """
    pieces = read_text(path, compression, encoding, name=name)
    head = next(pieces, "")
    first_line = head.split("\n", 1)[0]
    rows = csv_rows(head, pieces, name, delimiter)
    if field is not None and field.isascii() and field.isdigit() and field not in next(csv.reader([first_line]), []):
        column, header = int(field) - 1, None
        if column < 0:
            raise UserError(f"{setting('text_field', 0)} is not a column: columns count from 1.")
    else:
        first = next(rows, None)
        header = [cell.strip() for cell in first[1]] if first else []
        if not header:
            raise UserError(
                f"{name} has no header line: give the text's column by number, such as {setting('text_field', 1)}."
            )
        sample = list(islice(rows, _ROWS_LOOKED_AT))
        rows = chain(sample, rows)
        if field is None:
            field = _choose(_columns(header, [row for _, row in sample]), header, f"{name}, line 1", _BY_NUMBER)
        if field not in header:
            raise UserError(
                f"{name} has no column {field!r}; its columns are {_listed(header)}: choose one with "
                f"{setting('text_field')}"
                f"{_BY_NUMBER}."
            )
        column = header.index(field)
    for line, row in rows:
        if not row:
            continue
        if column >= len(row):
            raise UserError(
                f"{name}, line {line} has {len(row)} columns where column {column + 1}"
                f"{f' ({field})' if header else ''} is wanted: correct that row."
            )
        paragraphs = record_paragraphs(row[column])
        if paragraphs:
            yield line, paragraphs


def csv_rows(head: str, pieces: Iterator[str], name: str, delimiter: str | None) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of its last line, cells) for each row of a CSV or TSV text, given as its first piece and the rest.

    delimiter: see `read_csv`. Raises UserError for a row of more than LONGEST_RECORD characters, usually after a
    quotation mark that is never closed.
    """
    if delimiter is None:
        first_line = head.split("\n", 1)[0]
        delimiter = next((mark for mark in ",;\t" if mark in first_line), ",")
    quoting: Any = csv.QUOTE_NONE if delimiter == "\t" and not is_quoted(head) else csv.QUOTE_MINIMAL
    size = 0

    def counted() -> Iterator[str]:
        nonlocal size
        for line in lines(chain([head], pieces), name, LONGEST_RECORD):
            size += len(line) + 1
            if size > LONGEST_RECORD:
                raise csv.Error(f"a row of more than {LONGEST_RECORD:,} characters")
            yield line + "\n"

    csv.field_size_limit(LONGEST_RECORD)
    reader = csv.reader(counted(), delimiter=delimiter, quoting=quoting, strict=False)
    while True:
        size = 0
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(
                f"{name}, line {reader.line_num} cannot be read as CSV ({error}): a quotation mark before it is "
                f"probably never closed."
            ) from error
        yield reader.line_num, row


def is_quoted(head: str) -> bool:
    """Return whether a TSV file quotes its fields: every field that opens with a quotation mark also ends with one.

    Most TSV files (GLUE's, for example) quote no field, and their texts are full of unpaired quotation marks.
    """
    cells = [cell for line in head.split("\n")[:500] for cell in line.rstrip("\r").split("\t") if cell[:1] == '"']
    return bool(cells) and all(len(cell) > 1 and cell.endswith('"') for cell in cells)


def _columns(header: list[str], rows: list[list[str]]) -> dict[str, str]:
    """Return the longest value of each column that can be text; columns of numbers are left out."""
    examples = {}
    for index, name in enumerate(header):
        values = [row[index] for row in rows if index < len(row) and row[index].strip()]
        texts = [value for value in values if not _NUMBER.fullmatch(value)]
        if len(texts) * 2 > len(values):
            examples[name] = max(texts, key=len)
    return examples


def read_parquet(path: str, start: int, end: int | None, field: str | None, name: str) -> Iterator[Record]:
    """Yield (row number, paragraphs) for row groups [start, end) of a Parquet file, a batch of rows at a time.

    Raises UserError when pyarrow is missing, the file is damaged, or there is no such column.
    """
    pyarrow, parquet = import_parquet()
    try:
        with closing(parquet.ParquetFile(path)) as file:
            groups = range(file.num_row_groups)[start:end]
            field = _parquet_field(pyarrow, file.schema_arrow, field, name)
            column = field if field in file.schema_arrow.names else field.split(".")[0]
            number = sum(file.metadata.row_group(group).num_rows for group in range(groups.start))
            fault = _Fault(path, "", 0, name, "row")
            for group in groups:
                check_columns(file.metadata.row_group(group), f"{name}, row group {group + 1}", column)
                for batch in file.iter_batches(batch_size=_PARQUET_ROWS, row_groups=[group], columns=[column]):
                    for record in batch_records(batch, name, number):
                        number += 1
                        _, paragraphs = _read_record(record, field, number, fault)
                        if paragraphs:
                            yield number, paragraphs
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{name} is not a readable Parquet file ({error}): copy or download it again.") from error


def batch_records(batch: Any, name: str, number: int) -> list[dict[str, Any]]:
    """Return the rows of a batch of a Parquet file, of which `number` were read before it.

    Raises UserError for values that Python cannot represent: a text that is not UTF-8, a date out of range.
    """
    try:
        records: list[dict[str, Any]] = batch.to_pylist()
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: a text after row {number} is not UTF-8: write the table again as UTF-8.") from error
    except (ValueError, OverflowError, ArithmeticError) as error:
        raise UserError(
            f"{name}: a value after row {number} cannot be read ({error}): write its column again, for example as text."
        ) from error
    return records


def check_columns(group: Any, where: str, column: str | None = None) -> None:
    """Raise UserError when `column` (None: any) of a row group has an extreme compression ratio: pyarrow unpacks a page
    as a whole, and a page may be all of a column.
    """
    for chunk in map(group.column, range(group.num_columns)):
        size, packed, name = chunk.total_uncompressed_size, chunk.total_compressed_size, chunk.path_in_schema
        if column in (None, name.split(".")[0]) and size > max(LARGEST_COLUMN, LARGEST_RATIO * packed):
            raise UserError(
                f"{where}: column {name!r} unpacks {packed:,} bytes to {size:,}, more than {LARGEST_RATIO} times as "
                f"many: write the table again without compression, or with smaller row groups."
            )


def import_parquet() -> tuple[Any, Any]:
    """Return the modules pyarrow and pyarrow.parquet; UserError with the remedy when they are not installed."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError("Reading Parquet files needs the pyarrow package: pip install 'blankfill[text]'.") from error
    return pyarrow, parquet


def parquet_groups(path: str) -> list[int]:
    """Return the uncompressed size in bytes of each row group of a Parquet file; UserError when it cannot be read."""
    pyarrow, parquet = import_parquet()
    try:
        with closing(parquet.ParquetFile(path)) as file:
            return [file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups)]
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable Parquet file ({error}): copy or download it again.") from error


def _parquet_field(pyarrow: Any, schema: Any, field: str | None, name: str) -> str:
    def is_text(kind: Any) -> bool:
        if pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
            return is_text(kind.value_type)
        return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))

    if field is None:
        return _choose({column.name: "text" for column in schema if is_text(column.type)}, schema.names, name)
    if field not in schema.names and field.split(".")[0] not in schema.names:
        raise UserError(
            f"{name} has no column {field!r}; its columns are {_listed(schema.names)}: see {setting('text_field')}."
        )
    return field


def _sample(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a record that can be text."""
    return {key: value for key, value in record.items() if _can_be_text(value)}


def _can_be_text(value: Any) -> bool:
    if isinstance(value, str):
        return not _NUMBER.fullmatch(value)
    return isinstance(value, list) and bool(value) and all(map(_can_be_text, value))


def _guess(record: Mapping[str, Any], where: str) -> str:
    """Return the field of a record that is obviously the text. Raises UserError when there is none, or several."""
    candidates = _sample(record)
    # Beside nested objects that hold more characters, a lone string is a title or a version, not the text.
    nested = sum(len(str(value)) for key, value in record.items() if isinstance(value, dict | list | tuple))
    if len(candidates) == 1 and next(iter(candidates)).lower() not in USUAL_FIELDS:
        value = next(iter(candidates.values()))
        if isinstance(value, str) and len(value) < nested:
            candidates = {}
    return _choose(candidates, list(record), where)


def _choose(candidates: Mapping[str, Any], fields: Iterable[str], where: str, hint: str = "") -> str:
    names = {key.lower(): key for key in reversed(list(candidates))}
    if "text" in names:
        return names["text"]
    usual = [names[name] for name in USUAL_FIELDS if name in names]
    others = [key for key in candidates if key.lower() not in _NOT_TEXT]
    for choice in (usual, others):
        if len(choice) == 1:
            return choice[0]
        if choice:
            raise UserError(
                f"{where}: the text could be any of {_listed(choice)}: choose one with {setting('text_field')}{hint}."
            )
    there = _listed(fields) or "none"
    raise UserError(
        f"{where}: no field is clearly the text (fields: {there}): name one with {setting('text_field')}{hint}."
    )


def _listed(names: Iterable[str]) -> str:
    texts = (str(name) for name in islice(names, 20))
    return ", ".join(text if len(text) <= 40 else text[:37] + "..." for text in texts if text)


def _read_record(record: Any, field: str | None, number: int, fault: _Fault) -> tuple[str | None, list[str]]:
    """Return (the field that holds the text, guessed from this record when it is None; the record's paragraphs)."""
    try:
        if field is None and isinstance(record, Mapping):
            field = _guess(record, fault.where(number))
        return field, _record_paragraphs(record, field, number, fault)
    except RecursionError as error:
        raise UserError(f"{fault.where(number)} is nested too deeply to be read: correct or delete it.") from error


def _record_paragraphs(record: Any, field: str | None, number: int, fault: _Fault) -> list[str]:
    if isinstance(record, str) and field is None:
        return record_paragraphs(record)
    if not isinstance(record, Mapping):
        raise UserError(
            f"{fault.where(number)} holds {_kind(record)} where an object with a text field is wanted: correct or "
            "delete it."
        )
    if field == "text" and record.keys() >= _EXTRACTOR_FIELDS and isinstance(record["text"], str):
        return extractor_paragraphs(str(record["title"]), record["text"].split("\n"))
    value = record[field] if field in record else _lookup(record, (field or "").split("."), number, fault)
    try:
        return _value_paragraphs(value)
    except TypeError as error:
        raise UserError(
            f"{fault.where(number)}: field {field!r} holds {error}, not text: choose another with "
            f"{setting('text_field')}."
        ) from error


def _lookup(value: Any, keys: list[str], number: int, fault: _Fault) -> Any:
    """Follow a dotted path; a list on the way is followed in each of its items."""
    if not keys:
        return value
    if isinstance(value, list):
        values = [_lookup(item, keys, number, fault) for item in value]
        return list(chain.from_iterable(item if isinstance(item, list) else [item] for item in values))
    if not isinstance(value, Mapping) or keys[0] not in value:
        fields = _listed(value) if isinstance(value, Mapping) else "none"
        raise UserError(
            f"{fault.where(number)} has no field {keys[0]!r} (its fields: {fields}): choose one with "
            f"{setting('text_field')}."
        )
    return _lookup(value[keys[0]], keys[1:], number, fault)


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
        raise TypeError(_kind(value))
    if value and all(isinstance(item, str) for item in value):
        ends = sum(item.rstrip().endswith((".", "!", "?", '."', "。", "！", "？", "”", "」")) for item in value)
        if ends * 2 > len(value) and not any("\n" in item.strip() for item in value) and max(map(len, value)) < 1000:
            ascii_ends = any(item.isascii() for item in value)
            return record_paragraphs((" " if ascii_ends else "").join(item.strip() for item in value))
    return list(chain.from_iterable(map(_value_paragraphs, value)))


def _kind(value: Any) -> str:
    kinds = {bool: "a truth value", dict: "an object", list: "a list", str: "a string", type(None): "null"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def json_lines(text: str, field: str | None) -> bool:
    """Return whether `text`, the first lines of a file, can only be JSON Lines: an object with a text on each line."""
    rows = [row for row in text.split("\n")[:20] if row.strip()]
    for row in rows:
        try:
            record = json.loads(row)
            if not isinstance(record, dict) or not (_sample(record) or (field and field.split(".")[0] in record)):
                return False
        except (ValueError, RecursionError):
            return False
    return bool(rows)


def is_parquet(path: str) -> bool:
    """Return whether a file begins and ends with Parquet's magic bytes."""
    with Path(path).open("rb") as stream:
        if stream.read(4) != b"PAR1":
            return False
        stream.seek(-4, 2)
        return stream.read(4) == b"PAR1"
