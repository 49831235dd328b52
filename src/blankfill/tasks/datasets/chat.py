"""The task of dialogues: files of rounds in any usual form, whose answers a model learns.

A row that cannot be used (an empty answer, two messages of the user in a row, …) is left out and counted with its line;
a file whose roles or form are not known is an error. Not here: the forms (`dialogues`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from blankfill.corpus.tables.columns import FieldChoice
from blankfill.corpus.tables.options import TableOptions, role_problems, roles_of
from blankfill.corpus.tables.reading import Table, open_table
from blankfill.errors import ConfigError, UserError
from blankfill.tasks.datasets.dialogues import Reading
from blankfill.tasks.datasets.files import UnusableError
from blankfill.tasks.datasets.tabular import FILES
from blankfill.tasks.datasets.task_table import is_empty, label_name
from blankfill.tasks.items import ChatItem, Item, Remark, Split, duplicate_ids, listed
from blankfill.tasks.task import Task

ROLES = ("messages", "role", "content", "prompt", "response", "history", "input", "system", "id")
"""The roles of the columns of dialogues."""
METRICS = ("log-likelihood", "perplexity", "rouge1", "rouge2", "rougeL", "bleu")
_SLOT = re.compile(r"\{\{\s*\w+\s*\}\}")


@dataclass
class Dialogues:
    """The dialogues of a table, row by row."""

    path: Path
    table: Table
    reading: Reading
    id: str = ""
    rows: int = 0
    left_out: dict[str, list[int]] = field(default_factory=dict)

    def items_of(self, row: Any, line: int) -> list[ChatItem]:
        """Return the dialogues of a row; none, and a note in `left_out`, for one that cannot be used."""
        number, self.rows = self.rows, self.rows + 1
        try:
            dialogues = list(self.reading.dialogues(row, self.table.where(line)))
        except UnusableError as error:
            self.left_out.setdefault(str(error), []).append(line)
            return []
        name = label_name(row[self.id]) if self.id in row else str(number)
        return [
            ChatItem(name if not k else f"{name}.{k}", tuple(said.messages), tuple(said.unasked), said.later, line)
            for k, said in enumerate(dialogues)
        ]

    def losses(self) -> list[str]:
        """Return a sentence for each reason for which rows are left out."""
        return [
            f"{self.path}: {len(lines):,} of {self.rows:,} rows left out: each {why} ({self.table.unit} "
            f"{listed(lines)})."
            for why, lines in self.left_out.items()
        ]

    def choices(self) -> tuple[FieldChoice, ...]:
        """Return the columns that were read, with their roles."""
        named = self.reading.roles
        return tuple(
            FieldChoice(self.table.form, name, "option" if role in named else "name", role)
            for role, name in self.reading.chosen.items()
        )


def open_dialogues(path: Path, options: TableOptions, kind: str = "") -> Dialogues:
    """Open a table of dialogues. kind: of the file, by default that of its name. Raises UserError for a file that
    does not exist or is no table, ConfigError for roles that dialogues do not have."""
    if problems := role_problems(options.columns, ROLES):
        raise ConfigError(problems)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a file of dialogues")
    roles = roles_of(options.columns)
    table = open_table(path, options, kind=kind)
    ids = roles.get("id", ()) or [name for name in ("id",) if name in table.columns]
    return Dialogues(path, table, Reading(roles), next(iter(ids), ""))


def read_dialogues(path: Path, labels: tuple[str, ...] = (), options: TableOptions | None = None) -> Split:
    """Read the dialogues of a file. Raises UserError when no row can be used."""
    dialogues = open_dialogues(path, options or TableOptions())
    items: list[ChatItem] = []
    for line, row in dialogues.table.objects():
        if any(not is_empty(value) or isinstance(value, list) for value in row.values()):
            items += dialogues.items_of(row, line)
    if not dialogues.rows:
        raise UserError(f"{path} has no rows: give a file that holds some.")
    if not items:
        raise UserError(f"{path}: every row {next(iter(dialogues.left_out))}: is this the right file?")
    problems = [*dialogues.table.notes, *dialogues.losses(), *_remarks(dialogues, items)]
    return Split(items, (), [*problems, *duplicate_ids(items, str(path))], dialogues.choices())


def _remarks(dialogues: Dialogues, items: Sequence[ChatItem]) -> list[Remark]:
    """Return sentences on what was decided about messages."""
    path, unit, decided = dialogues.path, dialogues.table.unit, dialogues.reading.decided
    answered = [item for item in items if item.answers]
    said = []
    if decided["by turns"]:
        said.append(
            f"{decided['by turns']:,} dialogues have no roles, so user and assistant take turns, the user first"
        )
    if decided["calls"] or decided["results"]:
        said.append(
            f"{decided['calls']:,} calls of tools are read as written by the assistant, {decided['results']:,} results "
            "of tools as messages of the user"
        )
    if decided["tools"]:
        said.append(f"{decided['tools']:,} dialogues describe tools, which the message of the system holds")
    if decided["unasked"]:
        said.append(f"{decided['unasked']:,} answers have the weight 0 and are read, but not learnt")
    if answered and (lines := [item.line for item in items if item.open]):
        said.append(
            f"{len(lines):,} dialogues end with a message of the user, from which nothing is learnt ({unit} "
            f"{listed(lines)})"
        )
    slots = [item.line for item in items if any(_SLOT.search(item.messages[k].content) for k in item.answers)]
    if slots:
        said.append(
            f"{len(slots):,} dialogues have a slot such as {_slot_in(items)} in an answer, which is learnt as it "
            f"stands; fill it in ({unit} {listed(slots)})"
        )
    return [Remark(f"{path}: {sentence}.") for sentence in said]


def _slot_in(items: Sequence[ChatItem]) -> str:
    matches = (_SLOT.search(item.messages[k].content) for item in items for k in item.answers)
    return next(match[0] for match in matches if match is not None)


def chats(items: Sequence[Item]) -> list[ChatItem]:
    """Return the dialogues among items."""
    return [item for item in items if isinstance(item, ChatItem)]


def chat_task(options: TableOptions | None = None) -> Task:
    """Return the task of dialogues. options: how its tables are read, with the columns of its roles. Raises ConfigError
    for other roles."""
    options = options or TableOptions()
    if problems := role_problems(options.columns, ROLES):
        raise ConfigError(problems)
    return Task("chat", "chat", FILES, partial(read_dialogues, options=options), METRICS, METRICS[0])


CHAT = chat_task()
