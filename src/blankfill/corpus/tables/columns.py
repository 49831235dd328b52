"""Which column is the running text, what a name such as `translation.en` leads to, and what was chosen and why.

A column that is named by option wins; then one with a usual name, whatever its first values are; then the only column
whose values are text in most of the first rows. Not here: the columns of tasks (`tasks.datasets.tabular`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain, islice
from typing import Any, Literal

from blankfill.errors import UserError, setting

USUAL_FIELDS = (
    "text", "content", "contents", "body", "article", "document", "passage", "paragraph", "paragraphs", "story",
    "raw_content", "raw_text", "full_text", "fulltext", "正文", "文本", "内容",
)  # fmt: skip
"""Field names that mean the running text, whatever other strings a record has; "text" outranks the others."""

_NOT_TEXT = frozenset(
    ("id", "_id", "idx", "uid", "uuid", "guid", "url", "link", "label", "split", "lang", "language", "date")
) | {"timestamp"}
_NUMBER = re.compile(r"[\s\d.,eE+\-:/%]*")
BY_NUMBER = ", or by its number from 1 where there is no header line"
MISSING: Any = object()
"""What `cell_at` returns where a row has no such cell."""
_DEEPEST = 4
"""Levels of objects in which a text is searched for, for a message."""
_FEWEST_VALUES = 12
"""Values of a column that say whether they repeat, at least."""
EACH_VALUE = ""
"""The field of a file whose records are texts themselves."""


@dataclass(frozen=True)
class FieldChoice:
    """The column that was chosen for a role.

    form: of the file, such as "CSV, ';'". field: the name of the column; `EACH_VALUE` where each record is a text. by:
    whether an option named it, its usual name says it, or it was guessed from the first rows.
    """

    form: str
    field: str
    by: Literal["option", "name", "guess"]
    role: str = "text"


def cell_at(row: Mapping[str, Any], field: str) -> Any:
    """Return the cell of a row under a name, or MISSING. Dots lead into objects, and into each object of a list."""
    if field in row:
        return row[field]
    return _follow(row, field.split(".")) if "." in field else MISSING


def _follow(value: Any, keys: Sequence[str]) -> Any:
    if not keys:
        return value
    if isinstance(value, list):
        values = [_follow(item, keys) for item in value]
        if any(item is MISSING for item in values):
            return MISSING
        return list(chain.from_iterable(item if isinstance(item, list) else [item] for item in values))
    if value is None:
        return None
    return _follow(value[keys[0]], keys[1:]) if isinstance(value, Mapping) and keys[0] in value else MISSING


def missing_field(row: Mapping[str, Any], field: str) -> str:
    """Return a phrase for a row in which `cell_at` finds nothing: which part of the name is absent, and what
    the row has."""
    value: Any = row
    for key in field.split("."):
        while isinstance(value, list) and value:
            value = next((item for item in value if not (isinstance(item, Mapping) and key in item)), value[0])
        if not isinstance(value, Mapping) or key not in value:
            fields = listed(value) if isinstance(value, Mapping) else ""
            return f"has no field {key!r} (its fields: {fields or 'none'})"
        value = value[key]
    return f"has no field {field!r}"


def kind_of(value: Any) -> str:
    """Return a phrase for the type of a cell."""
    kinds = {bool: "a truth value", dict: "an object", list: "a list", str: "a string", type(None): "null"}
    return kinds.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def can_be_text(value: Any) -> bool:
    """Return whether a cell can be running text: a string that is not a number, or a list of such strings."""
    if isinstance(value, str):
        return not _NUMBER.fullmatch(value)
    return isinstance(value, list) and bool(value) and all(map(can_be_text, value))


def _is_empty(value: Any) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def choose_text(
    sample: Sequence[Any], columns: Sequence[str], form: str, where: str, hint: str = "", typed: bool = False
) -> FieldChoice:
    """Return the column that holds the running text. Raises UserError when there is none, or several.

    sample: the first records. columns: known names, where the form has them. where, hint: for the error; hint is given
    where columns have numbers as well. typed: each
    column has one type, and `columns` are those of texts, so that the values need no look.
    """
    rows = [record for record in sample if isinstance(record, Mapping)]
    if not rows and sample:
        if any(isinstance(record, str) for record in sample):
            return FieldChoice(form, EACH_VALUE, "name")
        raise UserError(
            f"{where} holds {kind_of(sample[0])} where an object with a text field is wanted: is this the right file?"
        )
    names = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    if "text" in (lowered := {name.lower(): name for name in reversed(names)}):
        return FieldChoice(form, lowered["text"], "name")
    usual = [lowered[name] for name in USUAL_FIELDS if name in lowered and (typed or _may_be_text(rows, lowered[name]))]
    usual = [name for name in usual if typed or all(name in row for row in rows)] or usual
    if len(usual) == 1:
        return FieldChoice(form, usual[0], "name")
    again = [name for name in names if any(row.get(name) == name for row in rows)]
    if not usual and hint and again and not all(map(str.isdigit, names)):
        raise UserError(
            f"{where} seems to be a row, not a header, since {again[0]!r} occurs in that column again: give the number "
            f"of the text's column, such as {setting('columns', 'text=1')}."
        )
    candidates = [name for name in names if name.lower() not in _NOT_TEXT and (typed or _is_mostly_text(rows, name))]
    if not usual and not (len(candidates) == 1 and _is_beside_more(rows, candidates[0])):
        running = [name for name in candidates if not _is_category(rows, name)]
        if len(running) == 1:
            return FieldChoice(form, running[0], "guess")
        usual = candidates
    if len(usual) > 1:
        raise UserError(
            f"{where}: the text could be any of {listed(usual)}: choose one with "
            f"{setting('columns', 'text=NAME')}{hint}."
        )
    there = listed(names) or "none"
    inside = text_inside(rows)
    remedy = f"{setting('columns', f'text={inside}')}" if inside else f"{setting('columns', 'text=NAME')}{hint}"
    raise UserError(f"{where}: no field is clearly the text (fields: {there}): name one with {remedy}.")


def text_inside(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the dotted name of a text inside the objects of some records, a usual name before others, or ""."""
    paths = [path for row in rows[:1] for path in _texts_inside(row, (), _DEEPEST)]
    return next((path for path in paths if path.rpartition(".")[2].lower() in USUAL_FIELDS), paths[0] if paths else "")


def _texts_inside(value: Any, path: tuple[str, ...], depth: int) -> Iterator[str]:
    if isinstance(value, list):
        value = value[0] if value and isinstance(value[0], Mapping) else None
    if not isinstance(value, Mapping) or not depth:
        return
    for name, cell in value.items():
        if path and can_be_text(cell) and name.lower() not in _NOT_TEXT:
            yield ".".join((*path, name))
        yield from _texts_inside(cell, (*path, name), depth - 1)


def _is_category(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Return whether the values of a column repeat so much that they are names of classes, not running text."""
    values = [value for row in rows if isinstance(value := row.get(name), str) and value.strip()]
    return len(values) >= _FEWEST_VALUES and len(set(values)) * 4 <= len(values)


def _may_be_text(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return all(_is_empty(row.get(name)) or isinstance(row[name], str | list) for row in rows)


def _is_mostly_text(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    values = [row[name] for row in rows if not _is_empty(row.get(name))]
    return sum(map(can_be_text, values)) * 2 > len(values)


def _is_beside_more(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Return whether a lone string is beside nested objects that hold more characters: a title, not the text."""
    own = sum(len(value) for row in rows if isinstance(value := row.get(name), str))
    lists = any(isinstance(row.get(name), list) for row in rows)
    nested = sum(len(str(value)) for row in rows for value in row.values() if isinstance(value, dict | list | tuple))
    return not lists and own < nested


def listed(names: Iterable[str]) -> str:
    """Return some names for a message; those that could be mistaken for several, or have line ends, are quoted."""
    return ", ".join(_shown(str(name)) for name in islice(names, 20) if str(name))


def _shown(name: str) -> str:
    shown = name if len(name) <= 40 else name[:37] + "..."
    return repr(shown) if "," in name or name != name.strip() or not name.isprintable() else shown


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a question about the name that a mistyped one resembles, for the end of a message, or ""."""
    known = list(names)
    same = [other for other in known if other.strip().lower() == name.strip().lower()]
    close = same or get_close_matches(name, known, 1)
    return f": did you mean {close[0]!r}?" if close else ""
