"""Reads rows of SuperGLUE's and CLUE's tasks for `predict`: in the benchmark's own form, or in a flat form. The flat
form leaves out bookkeeping: ids (rows are numbered instead), the places of words (the words are searched for), and the
nesting of MultiRC and ReCoRD (a row is one question). Labels are ignored.
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
"""Fields of a row in the flat form."""
NESTED = {"wsc": "target", "cluewsc": "target", "multirc": "passage", "record": "passage"}
"""Field whose value is an object in the benchmark's own form."""
OWN_FORM = frozenset({"copa", "wic", "wsc", "cluewsc", "multirc", "record"})
"""Tasks about parts of a text, which a plain line cannot name."""


def missing(task: str, row: Mapping[str, Any]) -> list[str]:
    """Return the missing fields of a row; none for a row in the benchmark's own form, which is checked when it is
    read."""
    if isinstance(row.get(NESTED.get(task, "")), dict):
        return []
    return [name for name in NEEDED[task] if row.get(name) is None]


def items_of_row(task: Task, row: Mapping[str, Any], number: int) -> list[Item]:
    """Return the items of a row, several for several questions. number: the id of a row without one. Raises
    UnusableError with the reason.
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
    """Return a row with the places of span1 and span2, if each text occurs once."""
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
    starts = [match.start() for match in re.finditer(pattern, text)]
    if len(starts) != 1:
        raise UnusableError(
            f"has {len(starts)} times {name!r}, its {field}, in its text; say which one with {field}_index, the number "
            f"of its first {'character' if by_characters else 'word'}"
        )
    return starts[0] if by_characters else len(text[: starts[0]].split())


def _word_in_context(row: Row) -> Row:
    """Return a row with start1, end1, start2 and end2, if the word occurs once in each sentence."""
    placed = dict(row)
    for number in "12":
        if placed.get(f"start{number}") is not None:
            continue
        pattern = rf"(?<!\w){re.escape(str(row['word']))}(?!\w)"
        places = [match.span() for match in re.finditer(pattern, str(row[f"sentence{number}"]), re.IGNORECASE)]
        if len(places) != 1:
            raise UnusableError(
                f"has {len(places)} times {row['word']!r} in its sentence{number}; give the place of the word with "
                f"start{number} and end{number}, its first character and one past its last"
            )
        placed[f"start{number}"], placed[f"end{number}"] = places[0]
    return placed


def _answers(row: Row) -> Row:
    """Return a passage, a question and its answers; missing ids are numbered."""
    passage = row.get("passage")
    if isinstance(passage, dict):
        listed = passage.get("questions")
    else:
        passage, listed = {"text": passage}, [{"question": row["question"], "answers": row["answers"]}]
    questions = []
    for number, entry in enumerate(listed if isinstance(listed, list) else []):
        given = entry.get("answers") if isinstance(entry, dict) else None
        if not isinstance(given, list):
            raise UnusableError("has no list of 'answers'")
        answers = [{"text": answer} if isinstance(answer, str) else answer for answer in given]
        numbered = [{"idx": k, **answer} if isinstance(answer, dict) else answer for k, answer in enumerate(answers)]
        questions.append({"idx": number, **entry, "answers": numbered})  # an object, since it has answers
    return {**row, "passage": {**passage, "questions": questions or None}}


def _query(row: Row) -> Row:
    """Return a passage, its entities and a query; the entities are searched for in the passage."""
    passage = row.get("passage")
    if isinstance(passage, dict):
        qas = row.get("qas")
        queries = qas if isinstance(qas, list) else []
        if not all(isinstance(entry, dict) for entry in queries):
            raise UnusableError("has a query in 'qas' that is not an object")
        listed = [{"idx": k, **entry, "answers": None} for k, entry in enumerate(queries)]
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
