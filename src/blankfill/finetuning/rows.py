"""Items of a task from rows that a user gives: JSON objects with the fields of the task, or plain lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from blankfill.chatting.messages import Message
from blankfill.corpus.tables.options import TableOptions
from blankfill.errors import UserError
from blankfill.system.reading import field, parse_json
from blankfill.tasks.datasets.files import UnusableError
from blankfill.tasks.datasets.predicted import with_fields
from blankfill.tasks.datasets.row_formats import NEEDED, OWN_FORM, items_of_row, missing
from blankfill.tasks.datasets.tabular import ROLES
from blankfill.tasks.items import ChoiceItem, GenerationItem, Item, MixedItem, QuestionItem, TaggedItem, TextItem
from blankfill.tasks.task import Task
from blankfill.tasks.text.mixture import Mixture

if TYPE_CHECKING:
    PythonRow = str | Sequence[str | Sequence[str] | Mapping[str, Any] | Message] | Mapping[str, Any]
    """A row in Python; see `line_of`."""

FIELDS: Mapping[str, tuple[str, ...]] = {kind: roles.texts for kind, (roles, _) in ROLES.items()}
"""Fields of a row, for each kind of task; `second` may be missing."""


def line_of(task: Task, row: PythonRow, where: str) -> str:
    """Return a row of Python as a line for `items_of`: a text is the line itself, a mapping has the fields of the task,
    and a sequence has their values in order: (text, second), the words of a sentence, (question, context), (context,
    choices), (source, second), the messages of a dialogue.

    Raises UserError for anything else.
    """
    if isinstance(row, str):
        return row
    if isinstance(row, Mapping):
        given: Mapping[str, Any] = row
    elif task.kind == "chat" and isinstance(row, Sequence) and not isinstance(row, bytes):
        given = {"messages": [part.to_json() if isinstance(part, Message) else part for part in row]}
    elif isinstance(row, Sequence) and not isinstance(row, bytes):
        fields = NEEDED.get(task.name, FIELDS.get(task.kind, ()))
        values = (
            [list(row)]
            if task.kind == "tag"
            else [
                value if isinstance(value, str) else list(value) if isinstance(value, Sequence) else value
                for value in row
            ]
        )
        if isinstance(task, Mixture) or len(values) > len(fields):
            raise UserError(f"{where}: {len(values)} values; give an object with {', '.join(fields) or 'its task'}")
        given = dict(zip(fields, values, strict=False))
    else:
        raise UserError(f"{where}: a row is a text, a sequence of texts or an object, not {type(row).__name__}")
    try:
        return json.dumps(dict(given), ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: a value is no text, number or list ({error}); give JSON values") from error


def items_of(
    task: Task, rows: Iterator[tuple[str, str]], first: int = 0, tables: TableOptions | None = None
) -> Iterator[Item]:
    """Read items from lines, (place in the file, line) each: JSON objects with the fields of the task, or plain lines.

    Rows of SuperGLUE and CLUE are those of their files, or flatter (`tasks.datasets.row_formats`); rows of other tasks
    have the fields of their kind, or the columns of the table that the model was fine-tuned on (tables); dialogues have
    any form of data sets (`tasks.datasets.dialogues`). A plain line
    is a text, or two texts separated by a tab; for tagging, words separated by spaces. Raises UserError with the line
    for anything else.
    """
    for number, (where, line) in enumerate(rows, first):
        if not line.strip():
            raise UserError(f"{where}: the line is empty; leave it out")
        yield from items_of_one(task, number, where, line, tables)


def items_of_one(
    task: Task, number: int, where: str, row: str | Mapping[str, Any], tables: TableOptions | None = None
) -> Sequence[Item]:
    """Return the items of one row; see `items_of`. number: its id, where it has none of its own."""
    if isinstance(task, Mixture):
        member = _member(task, where, row)
        return [MixedItem(item.id, member.name, item) for item in items_of_one(member, number, where, row, tables)]
    if task.kind == "chat":
        from blankfill.finetuning.dialogues import dialogues_of_row

        return dialogues_of_row(number, where, row, tables or TableOptions())
    given: Any = None
    fields = NEEDED.get(task.name, FIELDS[task.kind])
    if not isinstance(row, str):
        given = row
    elif row.lstrip().startswith("{"):
        given = parse_json(row, where)
    elif is_json_list(row):
        raise UserError(f"{where}: a JSON list is no row; give a JSON object with {', '.join(fields)}")
    elif task.kind in ("choice", "answer") or task.name in OWN_FORM:
        raise UserError(f"{where}: give a JSON object with {', '.join(fields)}")
    elif task.kind == "tag":
        given = {"words": row.split()}
    else:
        text, _, second = row.partition("\t")
        given = {FIELDS[task.kind][0]: text, **({"second": second} if second else {})}
    if task.name in OWN_FORM or (task.name in NEEDED and "text" not in given):
        return _own_rows(task, given, number, where)
    given = with_fields(task.kind, given, tables or TableOptions())
    return [_item(task.kind, given, _text(given, "id", where) if "id" in given else str(number), where)]


def is_json_list(line: str) -> bool:
    """Return whether a line is a JSON list, such as a row of a table that was taken for lines."""
    if not line.lstrip().startswith("["):
        return False
    try:
        return isinstance(json.loads(line), list)
    except (ValueError, RecursionError):
        return False


def _text(given: Mapping[str, Any], name: str, where: str) -> str:
    """Return a field of a row as a text; a number is converted; UserError for anything else."""
    value = given[name]
    return str(value) if type(value) in (int, float) else field(given, name, str, where)


def _texts(given: Mapping[str, Any], name: str, where: str) -> tuple[str, ...]:
    """Return a field of a row that is a list of at least one text."""
    texts = tuple(_text({name: text}, name, where) for text in field(given, name, list, where))
    if not texts:
        raise UserError(f"{where}: `{name}` is empty; leave the line out")
    return texts


def _member(task: Mixture, where: str, row: str | Mapping[str, Any]) -> Task:
    """Return the member of a mixture that a row belongs to."""
    try:
        name = field(parse_json(row, where) if isinstance(row, str) else row, "task", str, where)
    except UserError as error:
        raise UserError(f'{where}: give a JSON object that says whose row it is: "task": one of {task.name}') from error
    if name not in (names := {member.name: member for member in task.members}):
        raise UserError(f"{where}: the model was fine-tuned for {task.name}, and {name} is not among these tasks")
    return names[name]


def _own_rows(task: Task, given: Mapping[str, Any], number: int, where: str) -> Sequence[Item]:
    """Return the items of a row in the form of its benchmark."""
    if lacking := missing(task.name, given):
        needed = ", ".join(NEEDED[task.name])
        raise UserError(f"{where}: there is no {' and no '.join(lacking)}; a row of {task.name} has {needed}")
    try:
        return items_of_row(task, given, number)
    except UnusableError as error:
        raise UserError(f"{where}: the row {error}; see docs/finetune.md for the fields of {task.name}") from error


def _item(kind: str, given: Mapping[str, Any], id: str, where: str) -> Item:
    needed = [name for name in FIELDS[kind] if name != "second"]
    if lacking := [name for name in needed if name not in given]:
        raise UserError(f"{where}: there is no {' and no '.join(lacking)}; its fields are {', '.join(given)}")
    if kind == "choice":
        return ChoiceItem(id, _text(given, "context", where), _texts(given, "choices", where))
    if kind == "answer":
        return QuestionItem(id, _text(given, "question", where), _text(given, "context", where))
    if kind == "tag":
        return TaggedItem(id, _texts(given, "words", where))
    beside = _text(given, "second", where) if given.get("second") is not None else None
    if kind == "generate":
        source = _text(given, "source", where)
        if not source.strip():
            raise UserError(f"{where}: the source is empty; give it a text, or leave the line out")
        return GenerationItem(id, source, (), beside)
    return TextItem(id, _text(given, "text", where), beside)
