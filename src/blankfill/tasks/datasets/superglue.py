"""SuperGLUE (arXiv 1905.00537) from its JSON Lines, FewGLUE in the same form, and SuperGLUE's submission files.

Where a task is about words in a text (WSC, WiC), the words are marked with asterisks and number signs, as in T5 (arXiv
1910.10683, section 2.4), so that any classifier can learn it. MultiRC's answers are separate items that share the group
of their question; ReCoRD's queries are choices among the entities of the passage.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from blankfill.tasks.datasets.files import UnusableError, id_of, label_of, part_of, read_objects, text_of
from blankfill.tasks.items import ChoiceItem, Item, Split, TextItem
from blankfill.tasks.task import Task

Row = dict[str, Any]
_BOOLEAN = ("false", "true")
_ENTAILED = ("entailment", "not_entailment")
_COPA = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}
_PLACEHOLDER = "@placeholder"


def read_rows(path: Path, labels: tuple[str, ...], build: Callable[[Row, tuple[str, ...]], Iterable[Item]]) -> Split:
    """Return a split whose rows `build` turns into items."""
    return read_objects(path, labels, lambda row: build(row, labels))


def pair(row: Row, labels: tuple[str, ...], first: str, second: str | None = None) -> list[Item]:
    """Return a text or two, by the names of their fields."""
    other = text_of(row, second) if second else None
    return [TextItem(id_of(row, "idx", "id"), text_of(row, first), other, label_of(row, labels))]


def winogender(row: Row, labels: tuple[str, ...]) -> list[Item]:
    """Read AX-g: two rows that differ only in the gender of the pronoun are a group."""
    [item] = pair(row, labels, "premise", "hypothesis")
    assert isinstance(item, TextItem)
    return [TextItem(item.id, item.first, item.second, item.label, str(part_of(row, "idx", int) // 2))]


def copa(row: Row, labels: tuple[str, ...]) -> list[Item]:
    """Read COPA: the premise with its question; which of two sentences answers it."""
    question = text_of(row, "question")
    if question not in _COPA:
        raise UnusableError(f"has the question {question!r} where cause or effect is known")
    label = label_of(row, ("0", "1"))
    choices = text_of(row, "choice1"), text_of(row, "choice2")
    context = f"{text_of(row, 'premise')} {_COPA[question]}"
    parts = {"premise": text_of(row, "premise"), "question": question}
    return [ChoiceItem(id_of(row, "idx"), context, choices, label, () if label is None else (label,), parts=parts)]


def mark(text: str, *spans: tuple[int, int, str]) -> str:
    """Return the text with a sign before and after each span (first character, one past the last, sign)."""
    for start, end, sign in sorted(spans, reverse=True):
        text = f"{text[:start]}{sign}{text[start:end]}{sign}{text[end:]}"
    return text


def wic(row: Row, labels: tuple[str, ...]) -> list[Item]:
    """Read WiC: whether a word, marked in two sentences, means the same in both."""
    sentences: list[str] = []
    parts: dict[str, str] = {}
    for number in "12":
        text = part_of(row, f"sentence{number}", str)
        start, end = part_of(row, f"start{number}", int), part_of(row, f"end{number}", int)
        if not 0 <= start < end <= len(text):
            raise UnusableError(f"has no word at {start} to {end} of sentence{number}")
        sentences.append(mark(text, (start, end, "*")))
        parts |= {f"sentence{number}": text, "word": str(row.get("word") or text[start:end])}
    return [TextItem(id_of(row, "idx"), sentences[0], sentences[1], label_of(row, labels), parts=parts)]


def coreference(row: Row, labels: tuple[str, ...], by_characters: bool = False) -> list[Item]:
    """Read WSC and CLUEWSC: whether #a pronoun# refers to *a name*. Places count words, or characters."""
    text, target = part_of(row, "text", str), part_of(row, "target", dict)
    spans, parts = [], {"text": text}
    for number, sign, part in (("1", "*", "name"), ("2", "#", "pronoun")):
        name, index = text_of(target, f"span{number}_text"), part_of(target, f"span{number}_index", int)
        spans.append((*_span(text, name, index, by_characters), sign))
        parts[part] = name
    return [TextItem(id_of(row, "idx", "id"), mark(text, *spans), None, label_of(row, labels), parts=parts)]


def _span(text: str, name: str, index: int, by_characters: bool) -> tuple[int, int]:
    """Return the span of a name: its occurrence nearest to the place in the data (a few rows of WSC have a wrong place,
    or end the name with a full stop), otherwise the word at that place."""
    words = [(match.start(), match.end()) for match in re.finditer(r"\S" if by_characters else r"\S+", text)]
    wanted = [k for k, (start, _) in enumerate(words) if start == index] if by_characters else [index]
    if not wanted or not 0 <= wanted[0] < len(words):
        raise UnusableError(f"has no word at {index}")
    here, end = words[wanted[0]]
    pattern = r"\s+".join(map(re.escape, name.rstrip(".").split()))
    if not by_characters:
        pattern = rf"(?<!\w){pattern}(?!\w)"
    spans = [(match.start(), match.end()) for match in re.finditer(pattern, text, re.IGNORECASE)]
    return min(spans, key=lambda span: abs(span[0] - here), default=(here, end))


def multirc(row: Row, labels: tuple[str, ...]) -> Iterator[Item]:
    """Read MultiRC: every answer to every question of a passage, right or not. The id is passage-question-answer."""
    passage, number = part_of(row, "passage", dict), id_of(row, "idx")
    for question in part_of(passage, "questions", list):
        group = f"{number}-{id_of(question, 'idx')}"
        for answer in part_of(question, "answers", list):
            parts = {"question": text_of(question, "question"), "answer": part_of(answer, "text", str)}
            second = " ".join(parts.values()).strip()
            name = f"{group}-{id_of(answer, 'idx')}"
            yield TextItem(name, text_of(passage, "text"), second, label_of(answer, labels), group, parts)


def record(row: Row, labels: tuple[str, ...]) -> Iterator[Item]:
    """Read ReCoRD: which entity of the passage fills the gap of the query; any mention of a right entity is right."""
    passage = part_of(row, "passage", dict)
    text = part_of(passage, "text", str)
    ends = [(part_of(e, "start", int), part_of(e, "end", int) + 1) for e in part_of(passage, "entities", list)]
    names = tuple(dict.fromkeys(text[start:end] for start, end in sorted(ends)))
    context = text.replace("\n@highlight\n", " ").strip()
    for gap_query in part_of(row, "qas", list):
        query = text_of(gap_query, "query")
        answers = {part_of(answer, "text", str) for answer in gap_query.get("answers") or ()}
        right = tuple(place for place, name in enumerate(names) if name in answers)
        if answers and not right:
            raise UnusableError(f"has answers that are not entities of the passage ({min(answers)})")
        choices = tuple(query.replace(_PLACEHOLDER, name) for name in names)
        before, _, after = query.partition(_PLACEHOLDER)
        parts = {"before": before, "after": after}
        yield ChoiceItem(id_of(gap_query, "idx"), context, choices, right[0] if right else None, right, names, parts)


_FILES = {"train": ("train.jsonl",), "dev": ("val.jsonl", "dev.jsonl", "dev32.jsonl"), "test": ("test.jsonl",)}


def _task(
    name: str, build: Any, metrics: tuple[str, ...], folder: str, labels: tuple[str, ...] = (), **fields: Any
) -> Task:
    primary_metric = metrics[0] if len(metrics) == 1 else "average"
    settings = {"kind": "classify", "files": _FILES, "primary_metric": primary_metric} | fields
    parse = partial(read_rows, build=build)
    return Task(name=name, parse=parse, metrics=metrics, folders=(folder,), labels=labels, row=build, **settings)


SUPERGLUE = (
    _task("boolq", partial(pair, first="question", second="passage"), ("accuracy",), "BoolQ", _BOOLEAN),
    _task(
        "cb", partial(pair, first="premise", second="hypothesis"), ("accuracy", "macro-f1"), "CB",
        ("entailment", "contradiction", "neutral"),
    ),
    _task("copa", copa, ("accuracy",), "COPA", kind="choice"),
    _task("multirc", multirc, ("f1", "group-exact"), "MultiRC", ("0", "1")),
    _task("record", record, ("exact", "f1"), "ReCoRD", kind="choice"),
    _task("sg-rte", partial(pair, first="premise", second="hypothesis"), ("accuracy",), "RTE", _ENTAILED),
    _task("wic", wic, ("accuracy",), "WiC", _BOOLEAN),
    _task("wsc", coreference, ("accuracy",), "WSC", _BOOLEAN),
    _task(
        "ax-b", partial(pair, first="sentence1", second="sentence2"), ("mcc",), "AX-b", _ENTAILED,
        files={"test": ("AX-b.jsonl",)},
    ),
    _task(
        "ax-g", winogender, ("accuracy", "parity"), "AX-g", _ENTAILED, files={"test": ("AX-g.jsonl",)},
        primary_metric="accuracy",
    ),
)  # fmt: skip

_CLUE_FILES = {
    "train": ("train.json", "train_few_all.json"), "dev": ("dev.json", "dev_few_all.json"),
    "test": ("test.json", "test_public.json"),
}  # fmt: skip
TNEWS_LABELS = tuple(str(code) for code in range(100, 117) if code not in (105, 111))
"""Toutiao's codes of its sections, as in the files: 100 is stories, 101 culture, … 116 games."""


def _clue(name: str, build: Any, labels: tuple[str, ...]) -> Task:
    task = _task(name, build, ("accuracy",), name, labels, files=_CLUE_FILES, by_characters=True)
    return replace(task, folders=(name, f"fewclue/{name}", f"{name}_public"))


CLUE = (
    _clue("afqmc", partial(pair, first="sentence1", second="sentence2"), ("0", "1")),
    _clue("tnews", partial(pair, first="sentence"), TNEWS_LABELS),
    _clue("cluewsc", partial(coreference, by_characters=True), _BOOLEAN),
)

_SUBMISSION = {
    "boolq": "BoolQ", "cb": "CB", "copa": "COPA", "multirc": "MultiRC", "record": "ReCoRD", "sg-rte": "RTE",
    "wic": "WiC", "wsc": "WSC", "ax-b": "AX-b", "ax-g": "AX-g",
}  # fmt: skip


def submission_name(task: str) -> str:
    """Return the name of a task's file in a SuperGLUE submission."""
    return f"{_SUBMISSION[task]}.jsonl"


def submission_lines(task: Task, items: Sequence[Item], predicted: Sequence[int]) -> list[str]:
    """Return the lines of a task's file in a SuperGLUE submission. predicted: the index of each item's label or
    choice."""
    if task.name == "multirc":
        return _multirc_lines(items, predicted)
    lines = []
    for item, place in zip(items, predicted, strict=True):
        if isinstance(item, ChoiceItem):
            label: str | int = item.names[place] if item.names else place
        else:
            label = task.labels[place]
        # The official example files capitalise WSC's answers.
        label = str(label).capitalize() if task.name == "wsc" else label
        lines.append(json.dumps({"idx": _number(item.id), "label": label}, ensure_ascii=False))
    return lines


def _multirc_lines(items: Sequence[Item], predicted: Sequence[int]) -> list[str]:
    passages: dict[int, dict[int, list[dict[str, int]]]] = {}
    for item, place in zip(items, predicted, strict=True):
        passage, question, answer = map(int, item.id.split("-"))
        passages.setdefault(passage, {}).setdefault(question, []).append({"idx": answer, "label": int(place)})
    lines = []
    for passage, questions in passages.items():
        rows = [{"idx": question, "answers": answers} for question, answers in questions.items()]
        lines.append(json.dumps({"idx": passage, "passage": {"questions": rows}}))
    return lines


def _number(id: str) -> int | str:
    return int(id) if id.isdigit() else id
