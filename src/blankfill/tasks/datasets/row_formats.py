"""Rows of SuperGLUE's and CLUE's tasks as a user gives them to `predict`: the benchmark's own form, or a flatter one.

The flatter form leaves out what is only there for bookkeeping: ids, which are then counted, the places of words, which
are then looked for, and the nesting of MultiRC and ReCoRD, where a row is then one question. Labels are not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from blankfill.tasks.datasets.files import UnusableError
from blankfill.tasks.items import Item
from blankfill.tasks.task import Task

Row = dict[str, Any]

NEEDED: Mapping[str, tuple[str, ...]] = {
    "boolq": ("question", "passage"), "cb": ("premise", "hypothesis"), "sg-rte": ("premise", "hypothesis"),
    "ax-b": ("sentence1", "sentence2"), "ax-g": ("premise", "hypothesis"),
    "copa": ("premise", "choice1", "choice2", "question"), "wic": ("word", "sentence1", "sentence2"),
    "wsc": ("text", "span1", "span2"), "cluewsc": ("text", "span1", "span2"),
    "multirc": ("passage", "question", "answers"), "record": ("passage", "entities", "query"),
    "afqmc": ("sentence1", "sentence2"), "tnews": ("sentence",),
}  # fmt: skip
"""The fields of a row in the flatter form."""
NESTED = {"wsc": "target", "cluewsc": "target", "multirc": "passage", "record": "passage"}
"""The field whose value is an object in the benchmark's own form."""
OWN_FORM = frozenset({"copa", "wic", "wsc", "cluewsc", "multirc", "record"})
"""Tasks that ask about parts of a text, which a plain line cannot say."""


def missing(task: str, row: Mapping[str, Any]) -> list[str]:
    """Return the fields that a row lacks; none for one in the benchmark's own form, which is checked when it is
    read."""
    if isinstance(row.get(NESTED.get(task, "")), dict):
        return []
    return [name for name in NEEDED[task] if row.get(name) is None]


def items_of_row(task: Task, row: Mapping[str, Any], number: int) -> list[Item]:
    """Return the items of a row, several where it asks several questions. number: its id if it has none.

    Raises UnusableError that says what cannot be used.
    """
    assert task.row is not None
    own = {"idx": row.get("id", number), **{name: value for name, value in row.items() if name != "label"}}
    if task.name in ("wsc", "cluewsc"):
        own = _coreference(own, task.by_characters)
    elif task.name == "wic":
        own = _word_in_context(own)
    elif task.name == "multirc":
        own = _answers(own)
    elif task.name == "record":
        own = _query(own)
    return list(_read(task, own))


def _read(task: Task, row: Row) -> Iterable[Item]:
    assert task.row is not None
    return task.row(row, task.labels)


def _coreference(row: Row, by_characters: bool) -> Row:
    """span1 and span2 as texts; where they lie is found, if they lie in one place."""
    if isinstance(row.get("target"), dict):
        return row
    target: Row = {}
    for number in "12":
        name, given = str(row[f"span{number}"]), row.get(f"span{number}_index")
        place = _place(str(row["text"]), name, f"span{number}", by_characters) if given is None else given
        target |= {f"span{number}_text": name, f"span{number}_index": place}
    return {**row, "target": target}


def _place(text: str, name: str, field: str, by_characters: bool) -> int:
    """Return the number of the word, or character, at which a name begins."""
    pattern = re.escape(name) if by_characters else rf"(?<!\w){re.escape(name)}(?!\w)"
    found = [match.start() for match in re.finditer(pattern, text)]
    if len(found) != 1:
        raise UnusableError(
            f"has {len(found)} times {name!r}, its {field}, in its text; say which one with {field}_index, the number "
            f"of its first {'character' if by_characters else 'word'}"
        )
    return found[0] if by_characters else len(text[: found[0]].split())


def _word_in_context(row: Row) -> Row:
    """start1, end1, start2 and end2 are found where the word stands in the sentences as it is."""
    found = dict(row)
    for number in "12":
        if found.get(f"start{number}") is not None:
            continue
        pattern = rf"(?<!\w){re.escape(str(row['word']))}(?!\w)"
        places = [match.span() for match in re.finditer(pattern, str(row[f"sentence{number}"]), re.IGNORECASE)]
        if len(places) != 1:
            raise UnusableError(
                f"has {len(places)} times {row['word']!r} in its sentence{number}; say where the word stands with "
                f"start{number} and end{number}, its first character and one past its last"
            )
        found[f"start{number}"], found[f"end{number}"] = places[0]
    return found


def _answers(row: Row) -> Row:
    """Return a passage, a question and its answers; ids that are missing are counted."""
    passage = row.get("passage")
    if isinstance(passage, dict):
        asked = passage.get("questions")
    else:
        passage, asked = {"text": passage}, [{"question": row["question"], "answers": row["answers"]}]
    questions = []
    for number, one in enumerate(asked if isinstance(asked, list) else []):
        given = one.get("answers") if isinstance(one, dict) else None
        if not isinstance(given, list):
            raise UnusableError("has no list of 'answers'")
        answers = [{"text": answer} if isinstance(answer, str) else answer for answer in given]
        numbered = [{"idx": k, **answer} if isinstance(answer, dict) else answer for k, answer in enumerate(answers)]
        questions.append({"idx": number, **one, "answers": numbered})  # an object, since it has answers
    return {**row, "passage": {**passage, "questions": questions or None}}


def _query(row: Row) -> Row:
    """Return a passage, its entities and a query; the entities are looked for in the passage."""
    passage = row.get("passage")
    if isinstance(passage, dict):
        asked = row.get("qas")
        queries = asked if isinstance(asked, list) else []
        if not all(isinstance(one, dict) for one in queries):
            raise UnusableError("has a query in 'qas' that is no object")
        listed = [{"idx": k, **one, "answers": None} for k, one in enumerate(queries)]
        return {**row, "qas": listed or None}
    names, text, entities = row["entities"], str(passage), []
    if not isinstance(names, list) or not names:
        raise UnusableError("has no list of 'entities'")
    for name in map(str, names):
        if (start := text.find(name)) < 0:
            raise UnusableError(f"has the entity {name!r}, which is not in its passage")
        entities.append({"start": start, "end": start + len(name) - 1})
    if "@placeholder" not in str(row["query"]):
        raise UnusableError("has a query without @placeholder, the gap that an entity fills")
    query = {"idx": row["idx"], "query": row["query"]}
    return {**row, "passage": {"text": text, "entities": entities}, "qas": [query]}
