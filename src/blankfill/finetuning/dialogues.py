"""Dialogues that a user gives to a model that has learnt to chat: rows of a table in any form of data sets, JSON
objects or lists of messages on lines, or plain lines, each a message of the user."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from blankfill.chatting.messages import Message
from blankfill.corpus.tables.options import TableOptions, roles_of
from blankfill.corpus.tables.writing import columns_of
from blankfill.errors import UserError
from blankfill.finetuning.given import GivenRow, GivenRows
from blankfill.system.console import say
from blankfill.system.reading import parse_json
from blankfill.tasks.datasets.chat import Dialogues, open_dialogues
from blankfill.tasks.datasets.dialogues import LISTS, PROMPTS, Reading
from blankfill.tasks.datasets.files import UnusableError
from blankfill.tasks.datasets.task_table import is_empty
from blankfill.tasks.items import ChatItem, listed

NAMES_OF_DIALOGUES = frozenset((*LISTS, *PROMPTS))
"""Names of columns by which a file is recognised as a table of dialogues."""


def rows_of_dialogues(path: Path, form: str, given: TableOptions, remembered: TableOptions) -> GivenRows:
    """Open a table of dialogues, whose last answer, if the dialogue ends with one, is not read.

    remembered: the options of the training data, whose columns count where the table has them. Raises UserError for a
    file that cannot be read.
    """
    dialogues = open_dialogues(path, given, form)
    if not given.columns and remembered.columns:
        known = set(dialogues.table.columns)
        own = tuple(column for column in remembered.columns if column.partition("=")[2] in known)
        dialogues.reading.roles = roles_of(own)
    read = GivenRows(iter(()), columns_of(dialogues.table), None)
    read.rows = _rows(path, dialogues, read)
    return read


def _rows(path: Path, dialogues: Dialogues, read: GivenRows) -> Iterator[GivenRow]:
    for line, row in dialogues.table.objects():
        if all(is_empty(value) for value in row.values()):
            yield GivenRow(row, [], line, "is empty")
            continue
        items = dialogues.items_of(row, line)
        why = "" if items else next(why for why, lines in dialogues.left_out.items() if line in lines)
        yield GivenRow(row, items, line, why)
    if not dialogues.rows:
        raise UserError(f"{path} has no rows: give a file that holds some.")
    read.left_out = dialogues.left_out
    for why, lines in dialogues.left_out.items():
        say(
            f"{path}: {len(lines):,} of {dialogues.rows:,} rows are not answered: each {why} ({dialogues.table.unit} "
            f"{listed(lines)})"
        )


def dialogues_of_row(number: int, where: str, row: str | Mapping[str, Any], tables: TableOptions) -> Sequence[ChatItem]:
    """Return the dialogues of one row. number: the id of a row without one. Raises UserError for a row that cannot be
    answered."""
    given: Any = row
    if isinstance(row, str):
        begins = row.lstrip()[:1]
        if begins == "{":
            given = parse_json(row, where)
        elif begins == "[":
            given = _list_of(row)
        if isinstance(given, str):
            return [ChatItem(str(number), (Message("user", given.strip()),))]
    if isinstance(given, list):
        given = {"messages": given}
    if set(given) <= {"role", "content"} and "role" in given:  # a message alone
        given = {"messages": [given]}
    id = str(given["id"]) if isinstance(given.get("id"), str | int) else str(number)
    try:
        dialogues = list(Reading(roles_of(tables.columns)).dialogues(given, where))
    except UnusableError as error:
        raise UserError(f"{where}: the dialogue {error}; correct it, or leave the line out") from error
    return [
        ChatItem(id if not k else f"{id}.{k}", tuple(said.messages), later=said.later)
        for k, said in enumerate(dialogues)
    ]


def _list_of(line: str) -> Any:
    """Return a line that is a JSON list of messages; the line itself where it is a text."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return line
    return value if isinstance(value, list) and value and isinstance(value[0], dict) else line
