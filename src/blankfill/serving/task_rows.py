"""Items of a task from the values of a request, and predictions as rows of its answer.

A value is a text or an object with the fields of the task, as `blankfill predict` reads them; a list is several. The
rows are those that `predict` prints. Entities and answers also have the range of characters `start` … `end` in the text
that was given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from blankfill.errors import UserError
from blankfill.finetuning.predictor import AnyPredictor
from blankfill.finetuning.rows import FIELDS, items_of_one
from blankfill.serving.inputs import TEXT, check_text, kind_of, name_of
from blankfill.system.reading import LONE_SURROGATE
from blankfill.tasks.adapter import Prediction
from blankfill.tasks.datasets.row_formats import NEEDED, OWN_FORM
from blankfill.tasks.heads.windows import Spans
from blankfill.tasks.items import Item, MixedItem, TaggedItem
from blankfill.tasks.metrics.entities import entities, is_tag
from blankfill.tasks.task import Task
from blankfill.tasks.text.mixture import Mixture

DEEPEST = 8
"""Levels of lists and objects in an object of a request."""
_WORD, _CHARACTER = re.compile(r"\S+"), re.compile(r"\S")


def _given(value: Any) -> list[str | dict[str, Any]]:
    values = value if type(value) is list else [value]
    if not values:
        raise PydanticCustomError("texts", "the list is empty; give at least one text or object")
    checked: list[str | dict[str, Any]] = []
    for number, row in enumerate(values):
        name = "the value" if type(value) is not list else f"value {number}"
        if type(row) is dict:
            _check_object(row, name, DEEPEST)
            checked.append(row)
        elif type(row) is str:
            checked.append(check_text(row, name))
        else:
            raise PydanticCustomError(
                "row", "{name} is {kind}; give a text or an object with the fields of the task",
                {"name": name, "kind": kind_of(row)},
            )  # fmt: skip
    return checked


def _check_object(value: Any, name: str, levels: int) -> None:
    if levels == 0:
        raise PydanticCustomError("row", "{name} is nested too deeply; give the fields of the task", {"name": name})
    if type(value) is dict:
        for key, part in value.items():
            _check_object(key, name, levels - 1)
            _check_object(part, name, levels - 1)
    elif type(value) is list:
        for part in value:
            _check_object(part, name, levels - 1)
    elif type(value) is str and not value.isascii() and LONE_SURROGATE.search(value):
        raise PydanticCustomError(
            "text", "{what} has half of a surrogate pair, which is no character; leave it out", {"what": name}
        )


_ROW = {"anyOf": [TEXT, {"type": "object"}]}
Rows = Annotated[
    list[Any],
    PlainValidator(_given),
    WithJsonSchema(
        {
            "anyOf": [*_ROW["anyOf"], {"type": "array", "items": _ROW, "minItems": 1}],
            "description": "A text, an object with the fields of the task, or a list of these.",
        }
    ),
]
"""What a model of a task predicts, as a list of texts and objects."""


@dataclass(frozen=True)
class TaskRow:
    """One item of a request. number: of the value that it is made of. places: for tagging of a given text, the range of
    characters of each word."""

    item: Item
    number: int
    places: tuple[tuple[int, int], ...] | None = None


def items_of_rows(predictor: AnyPredictor, given: Sequence[str | Mapping[str, Any]], param: str) -> list[TaskRow]:
    """Return the items of the values of a request. Raises UserError for one that is no row of the task."""
    rows = []
    for number, value in enumerate(given):
        where = name_of(number, len(given), param)
        if isinstance(value, str):
            rows.append(_of_text(predictor.task, value, number, where))
        else:
            try:
                made = items_of_one(predictor.task, number, where, value, predictor.tables)
            except (TypeError, ValueError, KeyError, AttributeError) as error:  # a field of another type
                fields = ", ".join(fields_of(predictor.task))
                raise UserError(
                    f"{where}: a field has another type than the task's; its fields are {fields}"
                ) from error
            rows += [TaskRow(item, number) for item in made]
    return rows


def fields_of(task: Task) -> tuple[str, ...]:
    """Return the fields of a row of a task."""
    return NEEDED.get(task.name, FIELDS.get(task.kind, ()))


def _of_text(task: Task, text: str, number: int, where: str) -> TaskRow:
    if isinstance(task, Mixture):
        raise UserError(f'{where}: give an object that says whose row it is: "task": one of {task.name}')
    if task.kind in ("choice", "answer") or task.name in OWN_FORM:
        raise UserError(f"{where}: a text alone is no row of {task.name}; give an object with "
                        f"{', '.join(fields_of(task))}")  # fmt: skip
    if task.kind == "tag":
        words = list((_CHARACTER if task.by_characters else _WORD).finditer(text))
        item = TaggedItem(str(number), tuple(word[0] for word in words))
        return TaskRow(item, number, tuple((word.start(), word.end()) for word in words))
    (item_,) = items_of_one(task, number, where, {FIELDS[task.kind][0]: text})
    return TaskRow(item_, number)


def shown(row: TaskRow, prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as a row of an answer."""
    item = row.item.item if isinstance(row.item, MixedItem) else row.item
    record = {"id": item.id, **prediction.record}
    if isinstance(item, TaggedItem):
        return _with_words(record, item, row.places)
    if isinstance(prediction.value, Spans):
        return _with_places(record, prediction.value)
    return record


def _with_words(record: dict[str, Any], item: TaggedItem, places: tuple[tuple[int, int], ...] | None) -> dict[str, Any]:
    """Add the words to tags, and the places of words and entities in the text."""
    tags = record.get("tags", [])
    words: list[dict[str, Any]] = []
    for number, (word, tag) in enumerate(zip(item.words, tags, strict=False)):
        words.append({"text": word, "tag": tag})
        if places is not None:
            words[-1] |= {"start": places[number][0], "end": places[number][1]}
    record["words"] = words
    if "entities" in record and all(map(is_tag, tags)):
        for entity, (_, first, stop) in zip(record["entities"], entities(tags), strict=True):
            entity |= {"first": first, "stop": stop}
            if places is not None:
                entity |= {"start": places[first][0], "end": places[stop - 1][1]}
    return record


def _with_places(record: dict[str, Any], spans: Spans) -> dict[str, Any]:
    """Add to answers the places in the context."""
    best = [
        {**answer, "start": start, "end": end}
        for answer, (start, end) in zip(record["best"], spans.places, strict=False)
    ]
    record["best"] = best
    if record["answer"] and spans.places:
        start, end = spans.places[spans.texts.index(record["answer"])]
        record |= {"start": start, "end": end}
    return record
