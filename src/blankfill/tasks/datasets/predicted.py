"""A table of the user's own whose rows a fine-tuned model predicts: the columns that its training data had, without the
labels; all rows, in their order.

The columns are those that the user names, else those that the run remembers, else the task's own fields, else the usual
names. Not here: the cells of a row (`task_table`), its items (`tabular`), what becomes of predictions (`finetuning`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from blankfill.corpus.tables.columns import MISSING, FieldChoice, cell_at, listed
from blankfill.corpus.tables.options import TableOptions, roles_of, split_names
from blankfill.corpus.tables.reading import open_table
from blankfill.corpus.tables.writing import Column, columns_of
from blankfill.errors import UserError, setting
from blankfill.system.console import say
from blankfill.tasks.datasets.tabular import ROLES, with_aliases
from blankfill.tasks.datasets.task_table import Row, TaskColumns, TaskRoles, is_empty, label_name
from blankfill.tasks.items import Item


def options_of(choices: Iterable[FieldChoice], given: TableOptions) -> TableOptions:
    """Return the options that read another table as this one: its columns that were chosen, and the rest as given."""
    roles: dict[str, list[str]] = {}
    for choice in choices:
        roles.setdefault(choice.role, []).append(choice.field)
    return replace(given.table_options(), columns=tuple(f"{role}={','.join(names)}" for role, names in roles.items()))


def merged(given: TableOptions, remembered: TableOptions, roles: TaskRoles) -> TableOptions:
    """Return the options of both, those that are given first; a role that is given replaces the one remembered, and the
    role text all texts."""
    own = roles_of(given.columns)
    replaced = {*own, *(roles.texts if "text" in own else ())} | ({roles.label, "label"} if "label" in own else set())
    own_columns = roles_of(remembered.columns).items()
    roles_read = (f"{role}={name}" for role, names in own_columns if role not in replaced for name in names)
    columns = (*given.columns, *roles_read)
    return TableOptions(
        encoding=given.encoding or remembered.encoding, delimiter=given.delimiter or remembered.delimiter,
        sheet=given.sheet or remembered.sheet, columns=columns,
    )  # fmt: skip


def text_names(kind: str, remembered: TableOptions) -> frozenset[str]:
    """Return the names, in small letters, by which the column of a text is recognised."""
    roles, _ = ROLES[kind]
    own = roles_of(remembered.columns)
    names = {name for role in (*roles.texts, "text") for name in split_names(own.get(role, ()), ())}
    usual = {name for names in roles.usual for name in names}
    return frozenset(name.lower() for name in (*names, *usual, *roles.texts) if not name.isdigit())


@dataclass(frozen=True)
class PredictedRow:
    """A row of a table. item: None for a row that cannot be predicted, `problem` then says why."""

    row: Row
    line: int
    item: Item | None
    problem: str = ""


class PredictedTable:
    """An open table, its columns chosen for a task."""

    def __init__(self, path: Path, kind: str, form: str, given: TableOptions, remembered: TableOptions) -> None:
        """kind: of the task. form: of the file (`corpus.tables.reading.KINDS`). given: the options of the user, over
        those remembered. Raises UserError for a file that is not such a table, and for columns that are absent."""
        roles, self._build = ROLES[kind]
        if kind == "choice":
            given, remembered = with_aliases(given), with_aliases(remembered)
        roles.check(given)
        wanted = merged(given, remembered, roles)
        self.path = path
        self.table = open_table(path, wanted, kind=form)
        self.columns: tuple[Column, ...] = columns_of(self.table)
        known = {column.name: None for column in self.columns}
        self.options = self._chosen(wanted, given, roles, known)
        self._of = TaskColumns(path, self.table, self.options, roles)
        self._of.choose(known)
        self.table.check_columns([name for name in (*self._of.text, *self._of.label) if name])
        self.label = () if set(self._of.label) & set(self._of.text) else self._of.label
        self.id = self._of.id or next((name for name in known if name == "id"), None)

    def _chosen(
        self, wanted: TableOptions, given: TableOptions, roles: TaskRoles, known: Mapping[str, None]
    ) -> TableOptions:
        """Return the options without the columns that are remembered and absent, of which only texts are needed."""
        own = set(roles_of(given.columns))
        columns = {role: split_names(names, known) for role, names in roles_of(wanted.columns).items()}
        texts = ("text", *roles.texts)
        lacking = [
            (role, name) for role, names in columns.items() for name in names
            if role not in own and name not in known and name.split(".")[0] not in known
        ]  # fmt: skip
        roles_read = {
            role: names for role, names in columns.items() if role in own or not {(role, n) for n in names} & {*lacking}
        }
        missed = [name for role, name in lacking if role in texts]
        others = {role: names for role, names in roles_read.items() if role not in texts or role in own}
        if missed:
            roles_read = others
        if not set(roles_read) & set(texts):
            fields = {role: (role,) for role in roles.texts if role in known}
            if len(fields) >= roles.needed and next(iter(roles.texts)) in fields:
                roles_read = {**fields, **roles_read}
        options = replace(wanted, columns=tuple(f"{role}={','.join(names)}" for role, names in roles_read.items()))
        if missed:
            try:
                TaskColumns(self.path, self.table, options, roles).choose(known)
            except UserError:
                raise UserError(
                    f"{self.path} has no column {missed[0]!r}, which the model was fine-tuned on; its columns are "
                    f"{listed(known)}: choose with {setting('columns')}."
                ) from None
        self.missed = missed
        return options

    def choices(self) -> tuple[FieldChoice, ...]:
        """Return the columns that were chosen."""
        return self._of.choices()

    def say_choices(self) -> None:
        """Say which columns are read."""
        texts = [choice for choice in self.choices() if choice.field not in self.label]
        shown = ", ".join(f"{choice.role} {choice.field!r}" for choice in texts)
        instead = f", in place of {', '.join(map(repr, self.missed))}, which the model was fine-tuned on"
        say(f"{self.path}: {self.table.form}; {shown}{instead if self.missed else ''}")

    def rows(self) -> Iterator[PredictedRow]:
        """Yield every row. Raises UserError where all are empty."""
        rest = len(self._of.text) == 1 and self._of.text == self.table.columns[-1:]
        number = 0
        for line, row in self.table.objects(rest):
            if all(is_empty(value) for value in row.values()):
                yield PredictedRow(row, line, None, "is empty")  # such rows count in no numbering of rows
                continue
            item = self._build(self._of, row, self._id(row, number), line)
            number += 1
            if isinstance(item, str):
                yield PredictedRow(row, line, None, item)
            else:
                yield PredictedRow(row, line, item)
        if not number:
            raise UserError(f"{self.path} has no rows: give a file that holds some.")

    def notes(self) -> list[str]:
        """Return what was decided about the file; complete only after `rows`."""
        return [*self.table.notes, *self._of.joined()]

    def _id(self, row: Row, number: int) -> str:
        value = None if self.id is None else self._of.value(row, self.id)
        return str(number) if is_empty(value) or isinstance(value, list | Mapping) else label_name(value)

    def reading(self) -> TableOptions:
        """Return the options that read this table with its labels and the same ids."""
        others = (choice for choice in self.choices() if choice.role != "id")
        ids = () if self.id is None else (FieldChoice(self.table.form, self.id, "name", "id"),)
        return options_of((*others, *ids), self.options)


def with_fields(kind: str, row: Mapping[str, Any], remembered: TableOptions) -> Mapping[str, Any]:
    """Return an object with the fields of a kind of task, from one that may have the names of the columns that the
    model was fine-tuned on instead, or usual ones."""
    roles, _ = ROLES[kind]
    if all(name in row for name in roles.texts[: roles.needed]):
        return row
    own = roles_of(remembered.columns)
    places = [name for role in roles.texts for name in split_names(own.get(role, ()), row)]
    cells = [cell_at(row, name) for name in places]
    if not places or any(cell is MISSING for cell in cells):
        lowered = {name.lower(): cell for name, cell in row.items() if isinstance(name, str)}
        usual = next((names for names in roles.usual if all(name in lowered for name in names)), None)
        if usual is None:
            return row
        cells = [lowered[name] for name in usual]
    if roles.several_texts and len(cells) > len(roles.texts):
        cells = [cells[0], cells[1:]]
    return {**row, **dict(zip(roles.texts, cells, strict=False))}
