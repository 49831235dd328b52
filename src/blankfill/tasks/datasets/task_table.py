"""A table of the user as a task reads it: the columns of each role, texts and labels of a row, rows that are left out.

A column is named by an option or has a usual name. A cell is what it is: a list of words is joined where a text is
wanted, and an object, a number or anything else that is no text is refused with its line. Not here: the form of files
(`corpus.tables`), the items of each task (`tabular`).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from blankfill.corpus.tables.columns import MISSING, FieldChoice, cell_at, kind_of
from blankfill.corpus.tables.columns import listed as shown
from blankfill.corpus.tables.options import TableOptions, role_problems, roles_of, split_names
from blankfill.corpus.tables.reading import Table, open_table
from blankfill.errors import ConfigError, UserError, setting
from blankfill.tasks.items import Item, duplicate_ids, listed

Row = Mapping[str, Any]
_WHOLE = re.compile(r"(-?\d+)\.0+\Z")


@dataclass(frozen=True)
class TaskRoles:
    """The roles of a task's columns.

    texts: names of the roles of its texts, in their order; only the first `needed` must be there. usual: names of
    columns that are detected, together. label: the role of what is predicted, detected by the names in `labels`.
    several_texts, several_labels: whether the last text, or the label, may be several columns. more: further roles.
    """

    texts: tuple[str, ...]
    usual: tuple[tuple[str, ...], ...]
    label: str
    labels: tuple[str, ...]
    needed: int = 1
    several_texts: bool = False
    several_labels: bool = False
    more: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every role that can be given; "text" is all texts, and "label" what is predicted, whatever it is called."""
        return tuple(dict.fromkeys(("text", *self.texts, "label", self.label, "id", *self.more)))

    def check(self, options: TableOptions) -> None:
        """Raise ConfigError for roles that the task does not have."""
        if problems := role_problems(options.columns, self.names):
            raise ConfigError(problems)


class TaskColumns:
    """The columns of a table that a task reads, and what the cells of a row are to it.

    text, label: names of columns, in order. start: that of the first character of an answer. labelled: whether labels
    are read, and rows without one left out.
    """

    def __init__(self, path: Path, table: Table, options: TableOptions, roles: TaskRoles) -> None:
        """Choose nothing yet: `choose` does, once all names of columns are known."""
        self.path, self._roles = path, roles
        self._given = roles_of(options.columns)
        self.text: tuple[str, ...] = ()
        self._label_is_guessed = False
        self.label: tuple[str, ...] = ()
        self.id: str | None = None
        self.start: str | None = None
        self.labelled = False
        self.form, self.notes, self._where = table.form, table.notes, table.where
        self._joined: list[int] = []

    def choose(self, known: Mapping[str, None]) -> None:
        """Choose the columns of all roles, and check that they are there. Raises UserError."""
        if not self.text:
            self._choose(tuple(known))
        self.id = next(iter(self._named("id", known)), None)
        self.start = next(iter(self._named("start", known)), None)
        self._check((*self.text, *self.label, *filter(None, (self.id, self.start))), known)

    def _named(self, role: str, known: Iterable[str]) -> tuple[str, ...]:
        return split_names(self._given.get(role, ()), known)

    def _choose(self, known: Sequence[str]) -> None:
        """Choose the columns of the texts and of the label."""
        self.text = self._texts(known)
        roles = self._roles
        most = 100 if roles.several_texts else len(roles.texts)
        if len(self.text) > most:
            raise UserError(f"{len(self.text)} text columns are named where {most} can be read: name fewer.")
        if len(self.text) < roles.needed:
            raise UserError(
                f"{self.path}: {' and '.join(roles.texts)} must be columns of their own: name both, such as "
                f"{setting('columns', f'{roles.texts[0]}=NAME {roles.texts[1]}=NAME')}."
            )
        named = self._named(roles.label, known) or self._named("label", known)
        if len(named) > 1 and not roles.several_labels:
            raise UserError(f"{len(named)} columns are named for {roles.label} where one can be read: name one.")
        self.label = named or self._usual_label(known)

    def _texts(self, known: Sequence[str]) -> tuple[str, ...]:
        roles = self._roles
        own = {role: self._named(role, known) for role in roles.texts if role != "text"}
        whole = self._named("text", known)
        if not any(own.values()):
            return whole or self._guess(known)
        names = list(whole)
        for place, role in enumerate(roles.texts):
            if own.get(role):
                names[place:] = own[role] if place + 1 == len(roles.texts) else own[role][:1]
            elif len(names) <= place and (place < roles.needed or role == "text"):
                lowered = {name.lower(): name for name in reversed(known)}
                usual = (texts[place] for texts in roles.usual if len(texts) > place)
                names += [next((lowered[name] for name in usual if name in lowered), role)]
        return tuple(names)

    def _guess(self, known: Sequence[str]) -> tuple[str, ...]:
        lowered = {name.lower(): name for name in reversed(known)}
        guess = next((names for names in self._roles.usual if all(name in lowered for name in names)), None)
        if guess is None:
            raise UserError(
                f"{self.path} has no column that is obviously the text: name one with "
                f"{setting('columns', self._unnamed(known))}; its columns are {shown(known)}."
            )
        return tuple(lowered[name] for name in guess)

    def _unnamed(self, known: Sequence[str]) -> str:
        """Return the roles to name: the text, and the label where none has a usual name either."""
        label = self._named(self._roles.label, known) or self._named("label", known) or self._usual_label(known)
        return "text=NAME" if label else f"text=NAME {self._roles.label}=NAME"

    def _usual_label(self, known: Sequence[str]) -> tuple[str, ...]:
        """Return the column with a usual name, or else the only one whose name begins with one: "label (0, 1)"."""
        lowered = {name.lower(): name for name in reversed(known)}
        usual = [lowered[name] for name in self._roles.labels if name in lowered]
        if usual or not known:
            return tuple(usual[:1])
        longer = [name for name in known if re.split(r"[^\w]", name.lower())[0] in self._roles.labels]
        longer = [name for name in longer if name not in self.text]
        self._label_is_guessed = len(longer) == 1
        return tuple(longer) if self._label_is_guessed else ()

    def _check(self, names: Iterable[str], known: Mapping[str, None]) -> None:
        for name in names:
            if name not in known and name.split(".")[0] not in known:
                raise UserError(
                    f"{self.path} has no column {name!r}: its columns are {shown(known)}; name columns with "
                    f"{setting('columns')}."
                )

    def choices(self) -> tuple[FieldChoice, ...]:
        """Return the columns that were chosen, with their roles."""
        named = bool(set(self._given) & {"text", *self._roles.texts})
        text_by: Literal["option", "name"] = "option" if named else "name"
        label_by: Literal["option", "name", "guess"] = "guess" if self._label_is_guessed else "name"
        if {"label", self._roles.label} & set(self._given):
            label_by = "option"
        roles = [*self._roles.texts, *[self._roles.texts[-1]] * len(self.text)]
        texts = [FieldChoice(self.form, name, text_by, role) for name, role in zip(self.text, roles, strict=False)]
        labels = [FieldChoice(self.form, name, label_by, self._roles.label) for name in self.label]
        others = [(self.id, "id"), (self.start, "start")]
        return (*texts, *labels, *(FieldChoice(self.form, name, "option", role) for name, role in others if name))

    def joined(self) -> list[str]:
        """Return a sentence about lists of words that were read as texts, or none."""
        if not (lines := sorted(set(self._joined))):
            return []
        rows = "1 row has" if len(lines) == 1 else f"{len(lines):,} rows have"
        return [
            f"{self.path}: {rows} a list of words where a text is wanted; the words were joined by spaces (line "
            f"{listed(lines)})."
        ]

    def where(self, line: int) -> str:
        """Return the place of a row, for a message."""
        return self._where(line)

    def value(self, row: Row, name: str | None) -> Any:
        """Return a cell, None where the row has no such one. Dots lead into objects."""
        value = cell_at(row, name) if name else None
        return None if value is MISSING else value

    def text_of(self, row: Row, name: str, line: int) -> str:
        """Return the text of a cell, "" for none. Raises UserError for a cell that is no text."""
        value = self.value(row, name)
        if isinstance(value, str):
            return value.strip()
        if is_empty(value):
            return ""
        if isinstance(value, list) and all(isinstance(word, str) for word in value):
            self._joined.append(line)
            return " ".join(word.strip() for word in value)
        raise self._refused(value, name, line, "a text")

    def short_text(self, value: Any, name: str, line: int) -> str:
        """Return a cell, or a part of one, that may be a number: a choice, an answer, a target."""
        if isinstance(value, str):
            return value.strip()
        if isinstance(value, int | float) and not isinstance(value, bool):
            return label_name(value)
        raise self._refused(value, name, line, "a text")

    def label_of(self, value: Any, name: str, line: int) -> str:
        """Return the name of a label. Raises UserError for a list or an object."""
        if isinstance(value, list | Mapping):
            raise self._refused(value, name, line, "a label")
        return label_name(value)

    def _refused(self, value: Any, name: str, line: int, wanted: str) -> UserError:
        what, remedy = kind_of(value), "correct it"
        if isinstance(value, Mapping) and value:
            what = f"an object with {listed(list(value))}"
            remedy = f"name a part of it, such as {name}.{next(iter(value))}"
        return UserError(
            f"{self.where(line)} has {what} in {name!r} where {wanted} is wanted: {remedy}, or name another column "
            f"with {setting('columns')}."
        )


class TaskTable(TaskColumns):
    """Rows of a file with labels, or of one for prediction, with the columns checked once."""

    def __init__(self, path: Path, options: TableOptions, roles: TaskRoles) -> None:
        table = open_table(path, options)
        super().__init__(path, table, options, roles)
        known = dict.fromkeys(table.columns)
        if table.kind not in ("json", "jsonl"):
            self._choose(tuple(known))
            table.check_columns([name for name in (*self.text, *self.label, *self._named("id", known)) if name])
        rest = len(self.text) == 1 and self.text == table.columns[-1:]
        self._rows: list[tuple[int, Row]] = []
        for line, row in table.objects(rest):
            if any(not is_empty(value) for value in row.values()):
                self._rows.append((line, row))
                known.update(dict.fromkeys(row))
        if not self._rows:
            raise UserError(f"{path} has no rows: give a file that holds some.")
        self.choose(known)
        self.left_out: dict[str, list[int]] = {}
        # A file in which no row has a label is for prediction.
        labels: tuple[str, ...] = self.label
        self.labelled = any(not is_empty(self.value(row, label)) for _, row in self._rows for label in labels)

    def items(self, build: Callable[[Row, str, int], Item | str]) -> list[Item]:
        """Return the items of all rows. build: (row, id, line) → item, or a text that says why to leave the row out."""
        built: list[Item] = []
        for number, (line, row) in enumerate(self._rows):
            id = label_name(self.value(row, self.id)) if self.id else str(number)
            item = build(row, id, line)
            if isinstance(item, str):
                self.left_out.setdefault(item, []).append(line)
            else:
                built.append(item)
        if not built:
            raise UserError(f"{self.path}: every row {next(iter(self.left_out))}: fill that column in.")
        return built

    def problems(self, items: Sequence[Item]) -> list[str]:
        """Return what was decided about the file, the reasons for rows left out, and ids that occur twice."""
        reasons = [
            f"{self.path}: {len(lines)} of {len(self._rows)} rows left out: each {why} (line {listed(lines)})."
            for why, lines in self.left_out.items()
        ]
        return [*self.notes, *reasons, *self.joined(), *duplicate_ids(items, str(self.path))]


def is_empty(value: Any) -> bool:
    """Return whether a cell is empty: null, NaN, nothing but white space, or an empty list."""
    if isinstance(value, float) and math.isnan(value):
        return True
    return value is None or (isinstance(value, list | tuple) and not value) or (
        isinstance(value, str) and (not value or value.isspace())
    )  # fmt: skip


def label_name(value: Any) -> str:
    """Return the name of a label: texts stripped, 1.0 as 1 (pandas writes either), true and false in small letters."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else _WHOLE.sub(r"\1", str(value).strip())


def listed_cell(value: Any) -> Any:
    """Return a cell, parsed where it is a text that is a JSON list of texts and numbers, as a CSV file holds one."""
    if not isinstance(value, str) or not (text := value.strip()).startswith("[") or not text.endswith("]"):
        return value
    try:
        parts = json.loads(text)
    except (ValueError, RecursionError):
        return value
    plain = all(isinstance(part, str | int | float) and not isinstance(part, bool) for part in parts)
    return parts if plain else value


def whole_number(value: Any) -> int | None:
    """Return a cell that is a whole number, however it is written (45, 45.0, "45"); None otherwise."""
    name = label_name(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    return int(name) if name.removeprefix("-").isdecimal() and len(name) < 20 else None
