"""Reads the user's tables as rows of named fields: CSV, TSV, JSON Lines, JSON and Parquet, compressed or not, by the
suffix of the file. Not here: the meaning of the fields (`tabular`), files of benchmarks (`files`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from blankfill.corpus.tables.options import TableOptions
from blankfill.corpus.tables.reading import ENDINGS, open_table

__all__ = ["ENDINGS", "Row", "table_rows"]

Row = Mapping[str, Any]


def table_rows(path: Path, headless: bool = False) -> Iterator[tuple[int, Row]]:
    """Yield (line, or number of the record, from 1; its fields by name).

    headless: a CSV or TSV file has no header, and its columns are named 1, 2, …. Values of CSV and TSV are texts.
    Raises UserError for a file with an unknown suffix, and for rows that cannot be read.
    """
    options = TableOptions(columns=("1",) if headless else ())
    table = open_table(path, options)
    table.check_columns(table.columns)
    yield from table.objects()
