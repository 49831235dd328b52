"""The options of tables, the same in all commands, and the grammar of `columns`: roles → names of columns.

Nothing heavy is imported here, so that help texts are quick.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated

from blankfill.errors import Problem, setting
from blankfill.system.schema import Option, nearest

ROLES = (
    "text", "second", "label", "id", "question", "context", "answer", "start", "choices", "source", "target", "words",
    "tags", "messages", "role", "content", "prompt", "response", "history", "input", "system",
)  # fmt: skip
"""What a column may be to a command. text: the running text of `prepare`, and the texts of a task in their order;
label: whatever a task predicts; start: the first character of an answer; those from `messages` on: of dialogues."""
DELIMITERS: Mapping[str, str] = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|", "\\t": "\t", "|": "|"}
"""Names of delimiters that a shell would not pass on as they are."""


@dataclass(frozen=True, kw_only=True)
class TableOptions:
    """How tables are read. Nothing has to be given: all of it is detected."""

    encoding: str | None = None
    """Encoding of the text files and tables that are not UTF-8, such as cp1252, cp1251, gb18030 or utf-16-le; without
    it, it is detected for each file. utf-8-replace: bytes that are not UTF-8 become U+FFFD."""
    delimiter: str | None = None
    """Character between the cells of CSV files, or its name: comma, semicolon, tab or bar; without it, detected."""
    sheet: str | None = None
    """Sheet of a spreadsheet, by name or by number from 1; without it, the first one that is not empty."""
    columns: Annotated[tuple[str, ...], Option(metavar="ROLE=NAME")] = ()
    """Columns of tables by their roles, such as text=body label=stars; NAME alone is the text. Dots lead into objects
    (text=translation.en), commas separate several columns (label=rude,toxic), a number counts the columns of a file
    without a header from 1; columns with usual names are detected."""

    def delimiter_character(self) -> str | None:
        """Return the delimiter itself, or None where it is to be detected."""
        return None if self.delimiter is None else DELIMITERS.get(self.delimiter, self.delimiter)

    def table_options(self) -> TableOptions:
        """Return these options alone, from a class that extends them."""
        return TableOptions(
            encoding=self.encoding, delimiter=self.delimiter, sheet=self.sheet, columns=tuple(self.columns)
        )

    def given_names(self) -> str:
        """Return the names of these options that are given, for a message."""
        return ", ".join(setting(field.name) for field in fields(TableOptions) if getattr(self, field.name))

    def table_problems(self, roles: Iterable[str] = ROLES) -> list[str]:
        """Return every mistake in the options, a sentence each. roles: those that the command has."""
        problems: list[str] = []
        if len(self.delimiter_character() or ",") != 1 or self.delimiter in ('"', "\n", "\r"):
            problems.append(
                Problem(
                    f"{setting('delimiter')} is {self.delimiter!r}; it must be one character, or comma, semicolon, "
                    "tab or bar"
                )
            )
        return problems + role_problems(self.columns, tuple(roles))


def roles_of(columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the names of columns that were given for each role, as they were written: ROLE=NAME, or NAME for text.

    Only the first = separates, so that a name may hold others: text=a=b.
    """
    roles: dict[str, tuple[str, ...]] = {}
    for column in columns:
        role, equals, name = column.partition("=")
        if not equals:
            role, name = "text", column
        roles[role] = (*roles.get(role, ()), name)
    return roles


def role_problems(columns: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return a sentence for every role that a command does not have, and for names that are empty."""
    problems: list[str] = []
    for role, names in roles_of(columns).items():
        if role not in known:
            close = nearest(role, known)
            hint = f"did you mean {close}?" if close else f"roles here are {', '.join(known)}"
            where = "" if role in ROLES else f"; a column of that name is written text={role}=…"
            problems.append(Problem(f"{setting('columns')} has no role {role[:60]!r} here; {hint}{where}"))
        if not all(name.strip() for name in names):
            problems.append(Problem(f"{setting('columns')} names no column for {role[:60]!r}; write {role[:60]}=NAME"))
    return problems


def split_names(given: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    """Return the names of columns in texts such as "rude,toxic"; a text that is a column as a whole is not cut."""
    columns = set(known)
    names: list[str] = []
    for text in given:
        names += [text] if text in columns or "," not in text else [part.strip() for part in text.split(",") if part]
    return tuple(names)


def all_numbers(columns: Sequence[str]) -> bool:
    """Return whether every column is named by a number, so that a file may have no header."""
    names = split_names([name for names in roles_of(columns).values() for name in names], ())
    return bool(names) and all(name.isascii() and name.isdigit() for name in names)
