"""Reads the user's tables as rows of named fields: CSV, TSV, JSON Lines, JSON and Parquet, compressed or not, by the
suffix of the file. Not here: the meaning of the fields (`tabular`), files of benchmarks (`files`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from blankfill.corpus.compression import SUFFIXES, sniff_compression
from blankfill.corpus.decoding import read_text
from blankfill.corpus.tables import batch_records, check_columns, csv_rows, import_parquet, json_values
from blankfill.errors import UserError
from blankfill.system.reading import mended_value, readable, regular_size
from blankfill.tasks.datasets.files import json_lines

ENDINGS = ("csv", "tsv", "jsonl", "json", "parquet")
_KINDS = {"csv": "csv", "tsv": "tsv", "tab": "tsv", "jsonl": "jsonl", "ndjson": "jsonl", "json": "json"} | {
    "parquet": "parquet",
    "pq": "parquet",
}

Row = Mapping[str, Any]


def table_rows(path: Path, headless: bool = False) -> Iterator[tuple[int, Row]]:
    """Yield (line, or number of the record, from 1; its fields by name).

    headless: a CSV or TSV file has no header, and its columns are named 1, 2, …. Values of CSV and TSV are texts.
    Raises UserError for a file with an unknown suffix, and for rows that cannot be read.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in SUFFIXES:
        suffixes.pop()
    kind = _KINDS.get(suffixes[-1].lstrip(".") if suffixes else "")
    if kind == "jsonl":
        yield from json_lines(path)
    elif kind == "json":
        yield from _json_records(path)
    elif kind == "parquet":
        yield from _parquet_records(path)
    elif kind:
        yield from _cells(path, "\t" if kind == "tsv" else None, headless)
    else:
        raise UserError(f"{path} must be named .csv, .tsv, .jsonl, .json or .parquet, so that its form is known.")


def _text(path: Path) -> Iterator[str]:
    regular_size(path)
    with readable(path), path.open("rb") as raw:
        compression = sniff_compression(raw.read(16))
    return read_text(str(path), compression)


def _json_records(path: Path) -> Iterator[tuple[int, Row]]:
    for number, value in enumerate(json_values(_text(path), str(path)), 1):
        if not isinstance(value, Mapping):
            raise UserError(f"{path}, record {number} is not a JSON object: the file must hold a list of objects.")
        yield number, mended_value(value)


def _parquet_records(path: Path) -> Iterator[tuple[int, Row]]:
    pyarrow, parquet = import_parquet()
    try:
        with closing(parquet.ParquetFile(path)) as file:
            for group in range(file.num_row_groups):
                check_columns(file.metadata.row_group(group), f"{path}, row group {group + 1}")
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for record in batch_records(batch, str(path), number):
                    number += 1
                    yield number, record
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable Parquet file ({error}): copy or download it again.") from error


def _cells(path: Path, delimiter: str | None, headless: bool) -> Iterator[tuple[int, Row]]:
    pieces = _text(path)
    head = next(pieces, "")
    names: list[str] = []
    for line, cells in csv_rows(head, pieces, str(path), delimiter):
        if not cells:
            continue
        if not names:
            names = [str(k + 1) for k in range(len(cells))] if headless else [cell.strip() for cell in cells]
            twice = [name for name in names if names.count(name) > 1 and name]
            if twice:
                raise UserError(f"{path} has two columns that are called {twice[0]!r}: give each a name of its own.")
            if not headless:
                continue
        if len(cells) != len(names):
            raise UserError(
                f"{path}, line {line} has {len(cells)} columns where {len(names)} are wanted: correct that row (a "
                f"field with a comma, a tab or a line end must be in quotation marks)."
            )
        yield line, dict(zip(names, (cell.rstrip("\r") for cell in cells), strict=True))
