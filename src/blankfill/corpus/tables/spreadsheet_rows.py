"""Rows of spreadsheets (.xlsx, .xlsm, .xlsb, .xls, .ods) by python-calamine; cells are texts, as in CSV files.

A sheet is in memory as a whole: it has at most 1,048,576 rows, and its archive may not unpack to more than
LARGEST_WORKBOOK. A number is its shortest decimal form, a date ISO 8601, a truth value true or false.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from blankfill.corpus.archives import DAMAGES, checked_members
from blankfill.corpus.faults import SourceError
from blankfill.corpus.limits import LARGEST_WORKBOOK
from blankfill.errors import UserError, setting

SUFFIXES = ("xlsx", "xlsm", "xlsb", "xls", "ods")
_ZIP = b"PK\x03\x04"
ARCHIVES = (_ZIP, b"\xd0\xcf\x11\xe0")
"""First bytes of spreadsheets, and of other archives."""


def is_spreadsheet(name: str, head: bytes) -> bool:
    """Return whether a file is a spreadsheet, by its name and its first bytes."""
    suffix = name.lower().rpartition(".")[2]
    return suffix in SUFFIXES and head.startswith(ARCHIVES)


def spreadsheet_rows(path: str, name: str, sheet: str | None) -> tuple[str, list[str], list[tuple[int, list[str]]]]:
    """Return the name of the sheet that is read, the names of all sheets, and (row from 1, cells) of the rows that are
    not empty.

    sheet: by name, or by number from 1; None is the first one that has rows. Raises SourceError when python-calamine
    is missing and for a file that cannot be read, UserError for a sheet that does not exist.
    """
    try:
        import python_calamine
    except ImportError as error:
        raise SourceError(
            f"{name} is a spreadsheet, which needs the python-calamine package: pip install 'blankfill[office]', or "
            "save the table as CSV."
        ) from error
    try:
        if _is_zip(path):
            checked_members(path, name, LARGEST_WORKBOOK, "save the table as CSV")
        workbook = python_calamine.CalamineWorkbook.from_path(path)
        names = list(workbook.sheet_names)
        if sheet is not None:
            wanted = [_sheet_named(sheet, names, name)]
        else:
            wanted = names
        rows: list[tuple[int, list[str]]] = []
        title = ""
        for title in wanted:
            rows = list(_texts(workbook.get_sheet_by_name(title).iter_rows()))
            if rows:
                break
    except (python_calamine.CalamineError, *DAMAGES) as error:
        locked = isinstance(error, python_calamine.PasswordError)
        remedy = "save it without its password" if locked else "copy it again, or save the table as CSV"
        raise SourceError(f"{name} is not a readable spreadsheet ({error}): {remedy}.") from error
    return title, names, rows


def _is_zip(path: str) -> bool:
    with Path(path).open("rb") as stream:
        return stream.read(4) == _ZIP


def _sheet_named(sheet: str, names: list[str], name: str) -> str:
    if sheet in names:
        return sheet
    if sheet.isascii() and sheet.isdigit() and 1 <= int(sheet) <= len(names):
        return names[int(sheet) - 1]
    raise UserError(
        f"{name} has no sheet {sheet!r}; its sheets are {', '.join(names)}: choose with {setting('sheet')}."
    )


def _texts(rows: Any) -> Iterator[tuple[int, list[str]]]:
    for number, row in enumerate(rows, 1):
        cells = [_text(cell) for cell in row]
        if any(cells):
            yield number, cells


def _text(cell: Any) -> str:
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() and abs(cell) < 1e15 else repr(cell)
    if isinstance(cell, datetime) and cell.time() == time():
        return cell.date().isoformat()
    if isinstance(cell, date | datetime | time):
        return cell.isoformat()
    return "" if cell is None else str(cell)
