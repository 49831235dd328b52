"""Rows of Parquet files, a batch at a time; strings of every physical kind (dictionaries, views, large strings)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from blankfill.corpus import limits
from blankfill.corpus.faults import SourceError
from blankfill.errors import UserError

_BATCH_ROWS = 256


def import_parquet() -> tuple[Any, Any]:
    """Return the modules pyarrow and pyarrow.parquet; UserError with the remedy when they are not installed."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise SourceError("Reading Parquet files needs the pyarrow package: pip install 'blankfill[text]'.") from error
    return pyarrow, parquet


def is_parquet(path: str) -> bool:
    """Return whether a file begins and ends with Parquet's magic bytes."""
    with Path(path).open("rb") as stream:
        if stream.read(4) != b"PAR1":
            return False
        stream.seek(-4, 2)
        return stream.read(4) == b"PAR1"


@contextmanager
def _opened(path: str, name: str) -> Iterator[Any]:
    pyarrow, parquet = import_parquet()
    try:
        with closing(parquet.ParquetFile(path)) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        raise SourceError(f"{name} is not a readable Parquet file ({error}): copy or download it again.") from error


def parquet_groups(path: str) -> list[int]:
    """Return the uncompressed size in bytes of each row group of a Parquet file; UserError when it cannot be read."""
    with _opened(path, path) as file:
        return [file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups)]


def parquet_columns(path: str, name: str) -> dict[str, bool]:
    """Return the columns of a Parquet file, and for each whether its type is text or lists of text."""
    with _opened(path, name) as file:
        return {column.name: _is_text(column.type) for column in file.schema_arrow}


def _is_text(kind: Any) -> bool:
    pyarrow, _ = import_parquet()
    types = pyarrow.types
    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    if any(test(kind) for test in (types.is_list, types.is_large_list, types.is_fixed_size_list, _is_list_view)):
        return _is_text(kind.value_type)
    return any(test(kind) for test in (types.is_string, types.is_large_string, types.is_string_view))


def _is_list_view(kind: Any) -> bool:
    types = import_parquet()[0].types
    return bool(types.is_list_view(kind) or types.is_large_list_view(kind))


def parquet_rows(
    path: str, name: str, start: int = 0, end: int | None = None, columns: Sequence[str] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number of the row in the file from 1, cells) for row groups [start, end). columns: only these are read.

    Raises UserError when pyarrow is missing, and for a file that is damaged or unpacks to an extreme size.
    """
    with _opened(path, name) as file:
        groups = range(file.num_row_groups)[start:end]
        number = sum(file.metadata.row_group(group).num_rows for group in range(groups.start))
        for group in groups:
            _check_columns(file.metadata.row_group(group), f"{name}, row group {group + 1}", columns)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group], columns=columns):
                for record in _batch_records(batch, name, number):
                    number += 1
                    yield number, record


def _batch_records(batch: Any, name: str, number: int) -> list[dict[str, Any]]:
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


def _check_columns(group: Any, where: str, columns: Sequence[str] | None) -> None:
    """Raise UserError when a column (columns: one of these) of a row group has an extreme compression ratio: pyarrow
    unpacks a page as a whole, and a page may be all of a column.
    """
    for chunk in map(group.column, range(group.num_columns)):
        size, packed, name = chunk.total_uncompressed_size, chunk.total_compressed_size, chunk.path_in_schema
        read = columns is None or name in columns or name.split(".")[0] in columns
        if read and size > max(limits.LARGEST_COLUMN, limits.LARGEST_RATIO * packed):
            raise SourceError(
                f"{where}: column {name!r} unpacks {packed:,} bytes to {size:,}, more than {limits.LARGEST_RATIO} "
                f"times as many: write the table again without compression, or with smaller row groups."
            )


def parquet_types(path: str, name: str) -> dict[str, Any]:
    """Return the columns of a Parquet file with their data types, as far as Python's values can be written in them;
    "json" for others."""
    pyarrow, _ = import_parquet()
    with _opened(path, name) as file:
        return {column.name: column.type if _is_writable(column.type, pyarrow) else "json"
                for column in file.schema_arrow}  # fmt: skip


def _is_writable(kind: Any, pyarrow: Any) -> bool:
    try:
        pyarrow.array([None], kind)
    except (pyarrow.ArrowException, TypeError, ValueError):
        return False
    return True
