"""Tasks on the user's own data: tables whose columns are named, or guessed where the names are obvious. Labels are the
values in the data: texts, numbers, true and false (1 and 1.0 are one label). A file without labels is for prediction:
all its rows are kept. In a file with labels, rows without a text or a label are left out and reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from blankfill.corpus.tables.options import TableOptions
from blankfill.corpus.tables.reading import ENDINGS
from blankfill.errors import UserError
from blankfill.tasks.datasets.answers import place_of
from blankfill.tasks.datasets.conll import tag_names
from blankfill.tasks.datasets.decimals import is_ambiguous, with_point
from blankfill.tasks.datasets.task_table import (
    Row,
    TaskColumns,
    TaskRoles,
    TaskTable,
    is_empty,
    label_name,
    listed_cell,
    whole_number,
)
from blankfill.tasks.items import (
    Answer,
    ChoiceItem,
    GenerationItem,
    Item,
    QuestionItem,
    Split,
    TaggedItem,
    TextItem,
    duplicate_ids,
    listed,
)
from blankfill.tasks.metrics.entities import bio
from blankfill.tasks.task import Task

_TEXTS = (
    ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text_a", "text_b"),
    ("text1", "text2"), ("query", "passage"), ("text",), ("sentence",), ("content",), ("review",), ("text_a",),
    ("文本",), ("内容",),
)  # fmt: skip
_LABELS = ("label", "labels", "score", "target", "class", "category", "标签", "类别")
SEPARATOR = ","
"""What separates the labels in a multi-label text."""

_CLASSES = TaskRoles(("text", "second"), _TEXTS, "label", _LABELS)
_LABEL_SETS = TaskRoles(("text", "second"), _TEXTS, "label", _LABELS, several_labels=True)
_TAGS = TaskRoles(("words",), (("words",), ("tokens",), ("text",)), "tags", ("tags", "ner_tags", "labels", "label"))
_ANSWERS = TaskRoles(
    ("question", "context"), (("question", "context"), ("question", "passage")), "answer", ("answer", "answers"), 2,
    more=("start",),
)  # fmt: skip
_CHOICES = TaskRoles(
    ("context", "choices"), (("context", "choices"), ("question", "choices"), ("question", "options")), "label",
    ("label", "answer"), 2, several_texts=True, more=("question", "answer"),
)  # fmt: skip
_PAIRS = TaskRoles(
    ("source", "second"), (("source",), ("input",), ("document",), ("article",), ("text",)), "target",
    ("target", "output", "summary", "title", "label"),
)  # fmt: skip


def sorted_labels(names: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct labels: sorted by value if all are numbers, otherwise by name."""
    distinct = sorted(set(names))
    try:
        numbers = {name: float(name) for name in distinct}
    except ValueError:
        return tuple(distinct)
    # "nan" is no number to sort by.
    return tuple(sorted(distinct, key=numbers.__getitem__) if all(map(math.isfinite, numbers.values())) else distinct)


def _known(table: TaskTable, names: Iterable[tuple[int, str]], labels: tuple[str, ...]) -> tuple[str, ...]:
    """Return the labels: the known labels, or those of the file, given as (line, name). Raises UserError for unknown
    labels."""
    met = list(names)
    if not labels:
        return sorted_labels(name for _, name in met)
    for line, name in met:
        if name not in labels:
            raise UserError(
                f"{table.where(line)} has the label {name!r}, which the training data do not have (they have "
                f"{listed(labels, 20)}): correct it, or add such rows to the training data."
            )
    return labels


def text_item(table: TaskColumns, row: Row, id: str, line: int) -> TextItem:
    """Return the text or the two texts of a row, without a label."""
    texts = [table.text_of(row, name, line) for name in table.text]
    return TextItem(id, texts[0], texts[1] if len(texts) > 1 else None)


def tagged_item(table: TaskColumns, row: Row, id: str, line: int) -> TaggedItem | str:
    """Return the words of a row, without tags, or why there are none."""
    words = _words(table, row, table.text[0], line)
    return TaggedItem(id, words) if words else "has no words"


def question_item(table: TaskColumns, row: Row, id: str, line: int) -> QuestionItem | str:
    """Return the question of a row and its context, without answers, or why there are none."""
    question, context = (table.text_of(row, name, line) for name in table.text)
    return QuestionItem(id, question, context) if question and context else "has no question or no context"


def choice_item(table: TaskColumns, row: Row, id: str, line: int) -> ChoiceItem | str:
    """Return the context of a row and its choices, without a label, or why there are none."""
    choices, _ = _choices_of(table, row, line)
    context = table.text_of(row, table.text[0], line)
    if len(choices) < 2:
        return "has fewer than two choices"
    return ChoiceItem(id, context, choices) if all(choices) else "has an empty choice before others"


def generation_item(table: TaskColumns, row: Row, id: str, line: int) -> GenerationItem:
    """Return the source of a row, without targets."""
    texts = [table.text_of(row, name, line) for name in table.text]
    return GenerationItem(id, texts[0], (), texts[1] if len(texts) > 1 else None)


def read_texts(path: Path, labels: tuple[str, ...], options: TableOptions, several: bool = False) -> Split:
    """Read texts or pairs with one label each, or with `several`."""
    table = TaskTable(path, options, _LABEL_SETS if several else _CLASSES)

    def build(row: Row, id: str, line: int) -> Item | str:
        item = text_item(table, row, id, line)
        if table.labelled and not item.first:
            return "has no text"
        names = _labels_of(table, row, line, several)
        if table.labelled and not names and not (several and not _unlabelled(table, row)):
            return "has no label"
        met.extend((line, name) for name in names)
        wanted.append(names)
        return item

    met: list[tuple[int, str]] = []
    wanted: list[list[str]] = []
    items = [item for item in table.items(build) if isinstance(item, TextItem)]
    problems = table.problems(items)
    if not table.labelled:
        return Split(items, labels, problems, table.choices())
    first = () if labels else table.label if several and len(table.label) > 1 else ()
    classes = first or _known(table, met, labels)
    if len(classes) < 2:
        raise UserError(f"{path} has only one label, {listed(classes)}: a classifier needs two or more.")
    if not labels and len(classes) > max(50, len(items) / 4):
        problems.append(f"{path} has {len(classes)} labels in {len(items)} rows: to predict numbers use regress.")
    place = {name: k for k, name in enumerate(classes)}
    labelled = [
        replace(item, label=tuple(sorted(place[name] for name in names)) if several else place[names[0]])
        for item, names in zip(items, wanted, strict=True)
    ]
    return Split(labelled, classes, problems, table.choices())


def _unlabelled(table: TaskTable, row: Row) -> bool:
    """Return whether a row has no labels, as opposed to an empty list of labels."""
    values = [table.value(row, name) for name in table.label]
    if len(values) > 1:
        return all(map(is_empty, values))
    return values[0] is None or (isinstance(values[0], float) and is_empty(values[0]))


def _labels_of(table: TaskTable, row: Row, line: int, several: bool) -> list[str]:
    """Return the names of a row's labels."""
    values = {name: table.value(row, name) for name in table.label}
    name, value = next(iter(values.items()), ("", None))
    value = listed_cell(value) if several else value
    if not several:
        if isinstance(value, list):
            raise UserError(f"{table.where(line)} has several labels: use multilabel.")
        return [] if is_empty(value) else [table.label_of(value, name, line)]
    if len(values) > 1:
        if all(map(is_empty, values.values())):
            return []
        marks = {name: table.label_of(value, name, line).lower() for name, value in values.items()}
        for name, mark in marks.items():
            if mark not in ("0", "1", "true", "false"):
                raise UserError(f"{table.where(line)} has {mark!r} in column {name!r}, where 0 or 1 is wanted.")
        return [name for name, mark in marks.items() if mark in ("1", "true")]
    parts = value if isinstance(value, list) else table.label_of(value, name, line).split(SEPARATOR)
    return list(dict.fromkeys(table.label_of(part, name, line) for part in parts if not is_empty(part)))


def read_numbers(path: Path, labels: tuple[str, ...], options: TableOptions) -> Split:
    """Read texts or pairs with a score each. Raises UserError that names the line of a score that is not a finite
    number."""
    table = TaskTable(path, options, _CLASSES)

    def build(row: Row, id: str, line: int) -> Item | str:
        item = text_item(table, row, id, line)
        if not table.labelled:
            return item
        if not item.first:
            return "has no text"
        value = table.value(row, table.label[0])
        if value is None or value == "":
            return "has no score"
        try:
            score = math.nan if isinstance(value, bool | list | Mapping) else float(with_point(value))
        except (ValueError, TypeError):
            score = math.nan
        if not math.isfinite(score):
            either = "may be a decimal or thousands: write it without the comma, or with a point"
            what = either if is_ambiguous(value) else "is not a finite number: correct or delete it"
            raise UserError(f"{table.where(line)} has the score {value!r}, which {what}.")
        return replace(item, label=score)

    items = table.items(build)
    return Split(items, (), table.problems(items), table.choices())


def read_tags(path: Path, labels: tuple[str, ...], options: TableOptions) -> Split:
    """Read lists of words with lists of tags (texts are cut at spaces)."""
    table = TaskTable(path, options, _TAGS)
    met: list[tuple[int, str]] = []

    def build(row: Row, id: str, line: int) -> Item | str:
        item = tagged_item(table, row, id, line)
        if isinstance(item, str) or not table.labelled:
            return item
        words = item.words
        tags = _words(table, row, table.label[0], line)
        if not tags:
            return "has no tags"
        if len(tags) != len(words):
            raise UserError(f"{table.where(line)} has {len(words)} words and {len(tags)} tags: give one for each word.")
        try:
            item = TaggedItem(id, words, bio(tags))
        except UserError as error:
            raise UserError(f"{table.where(line)}: {error}") from error
        if labels:
            met.extend((line, name) for name in dict.fromkeys(item.tags or ()))
        return item

    items = [item for item in table.items(build) if isinstance(item, TaggedItem)]
    known = _known(table, met, labels) if labels else tag_names(items)
    return Split(items, known, table.problems(items), table.choices())


def _words(table: TaskColumns, row: Row, name: str, line: int) -> tuple[str, ...]:
    value = listed_cell(table.value(row, name))
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(table.short_text(part, name, line) for part in value)
    return () if is_empty(value) else tuple(table.short_text(value, name, line).split())


def read_answers(path: Path, labels: tuple[str, ...], options: TableOptions) -> Split:
    """Read questions with contexts and their answers: a text, or a list of texts (empty: no answer), or SQuAD's objects
    with texts and places, as lists side by side or as a list of objects."""
    table = TaskTable(path, options, _ANSWERS)
    elsewhere: list[int] = []
    moved: list[int] = []

    def build(row: Row, id: str, line: int) -> Item | str:
        item = question_item(table, row, id, line)
        if isinstance(item, str) or not table.labelled:
            return item
        context = item.context
        name = table.label[0]
        value = table.value(row, name)
        if value is None:
            return "has no answer (null)"
        answers = []
        for text, start in _answers_of(table, value, table.value(row, table.start), name, line):
            place, was_moved = place_of(context, text, start)
            answers.append(Answer(text, place))
            if place is None:
                elsewhere.append(line)
            elif was_moved:
                moved.append(line)
        return replace(item, answers=tuple(answers), impossible=not answers)

    items = table.items(build)
    if duplicate_ids(items, str(path)):
        raise UserError(duplicate_ids(items, str(path))[0] + " Answers are identified by id: give each row its own.")
    problems = table.problems(items)
    if moved:
        problems.append(
            f"{path}: {len(moved)} answers are not at their start in the context, but occur there once: that place is "
            f"taken (line {listed(moved)})."
        )
    if elsewhere:
        problems.append(
            f"{path}: {len(elsewhere)} rows have an answer that is not at its place in the context: line "
            f"{listed(elsewhere)}; such answers are used to score, not to train."
        )
    return Split(items, (), problems, table.choices())


def _answers_of(table: TaskTable, value: Any, start: Any, name: str, line: int) -> list[tuple[str, int | None]]:
    """Return (text, first character or None) of each answer of a row. start: the cell of the column for it."""
    if isinstance(value, Mapping):
        texts, starts = value.get("text", value.get("texts")), value.get("answer_start", value.get("start"))
        if texts is None:
            raise UserError(
                f"{table.where(line)} has an object with {listed(list(value)) or 'nothing'} in {name!r} where answers "
                "with `text` and `answer_start` are wanted: correct it."
            )
        texts = texts if isinstance(texts, list) else [texts]
        starts = starts if isinstance(starts, list) else [starts] * len(texts)
        if len(starts) != len(texts):
            raise UserError(
                f"{table.where(line)} has {len(texts)} answers and {len(starts)} places in {name!r}: give one for each."
            )
        pairs = list(zip(texts, starts, strict=True))
    elif isinstance(value, list):
        pairs = []
        for part in value:
            pairs += _answers_of(table, part, start, name, line) if isinstance(part, Mapping) else [(part, start)]
    else:
        pairs = [(value, start)]
    answers = [(table.short_text(text, name, line), whole_number(place), place) for text, place in pairs]
    for text, number, place in answers:
        if number is None and not is_empty(place):
            raise UserError(
                f"{table.where(line)} says that the answer {text[:40]!r} begins at {place!r}: give the number of its "
                "first character, from 0."
            )
    return [(text, number) for text, number, _ in answers if text]


def read_choices(path: Path, labels: tuple[str, ...], options: TableOptions) -> Split:
    """Read contexts with choices: one column that holds a list, or a column for each; the label is the number of the
    right choice from 0, or its text, or its key where the choices are an object with `text` and `label`."""
    table = TaskTable(path, with_aliases(options), _CHOICES)

    def build(row: Row, id: str, line: int) -> Item | str:
        item = choice_item(table, row, id, line)
        if isinstance(item, str):
            return item
        choices, keys = _choices_of(table, row, line)
        value = table.value(row, table.label[0]) if table.label else None
        label = None
        if not is_empty(value):
            name = table.label_of(value, table.label[0], line)
            places = [names.index(name) for names in (keys, choices) if name in names]
            label = int(name) if name.isdecimal() and not keys else places[0] if places else len(choices)
            if label >= len(choices):
                raise UserError(
                    f"{table.where(line)} has the label {name!r}, which is neither the number (from 0) nor the text of "
                    f"one of its {len(choices)} choices."
                )
        elif table.labelled:
            return "has no label"
        return replace(item, label=label, right=() if label is None else (label,))

    items = table.items(build)
    return Split(items, (), table.problems(items), table.choices())


def with_aliases(options: TableOptions) -> TableOptions:
    """Return the options with `question` and `answer` as what they are to a choice: the context and the label."""
    names = {"question": "context", "answer": "label"}
    columns = (column.partition("=") for column in options.columns)
    return replace(options, columns=tuple(f"{names.get(role, role)}{sign}{name}" for role, sign, name in columns))


def _choices_of(table: TaskColumns, row: Row, line: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the choices of a row, and their keys where they have some."""
    names = table.text[1:]
    values = [listed_cell(table.value(row, name)) for name in names]
    keys: list[Any] = []
    if isinstance(values[0], Mapping) and isinstance(values[0].get("text"), list):
        given = values[0].get("label")
        keys = given if isinstance(given, list) else []
        values = values[0]["text"]
    elif isinstance(values[0], list):
        values = values[0]
    while values and is_empty(values[-1]):  # others keep their place, since labels are numbers of places
        values = values[:-1]
    choices = tuple("" if is_empty(value) else table.short_text(value, names[0], line) for value in values)
    return choices, tuple(map(label_name, keys)) if len(keys) == len(choices) else ()


def read_pairs(path: Path, labels: tuple[str, ...], options: TableOptions) -> Split:
    """Read sources, with a second text if its column is named, and targets (a text, or a list of alternatives)."""
    table = TaskTable(path, options, _PAIRS)

    def build(row: Row, id: str, line: int) -> Item | str:
        item = generation_item(table, row, id, line)
        name = table.label[0] if table.label else ""
        value = table.value(row, name)
        parts = [part for part in (value if isinstance(value, list) else [value]) if not is_empty(part)]
        targets = tuple(table.short_text(part, name, line) for part in parts)
        if table.labelled and not item.source:
            return "has no source"
        if table.labelled and not targets:
            return "has no target"
        return replace(item, targets=targets)

    items = table.items(build)
    return Split(items, (), table.problems(items), table.choices())


_SPLITS = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}
FILES = {
    split: tuple(f"{name}{more}.{ending}" for name in names for more in ("", "-*") for ending in ENDINGS)
    for split, names in _SPLITS.items()
}
"""Names of the files of the user's own tables."""
_READERS: dict[str, tuple[Any, Any, TaskRoles, tuple[str, ...], str]] = {
    "classify": ("classify", read_texts, _CLASSES, ("accuracy", "macro-f1"), "accuracy"),
    "regress": ("regress", read_numbers, _CLASSES, ("pearson", "spearman", "mse"), "pearson"),
    "multilabel": (
        "multilabel", partial(read_texts, several=True), _LABEL_SETS, ("micro-f1", "macro-f1", "exact"), "micro-f1",
    ),
    "tag": ("tag", read_tags, _TAGS, ("precision", "recall", "f1"), "f1"),
    "qa": ("answer", read_answers, _ANSWERS, ("exact", "f1"), "f1"),
    "choice": ("choice", read_choices, _CHOICES, ("accuracy",), "accuracy"),
    "seq2seq": ("generate", read_pairs, _PAIRS, ("rouge1", "rouge2", "rougeL", "bleu"), "rougeL"),
}  # fmt: skip


def tabular_task(name: str, options: TableOptions | None = None, by_characters: bool = False) -> Task:
    """Return a task on the user's own data. name: classify, regress, multilabel, tag, qa, choice or seq2seq.

    options: how its tables are read, with the columns of its roles. by_characters: words are characters (Chinese), for
    metrics and for joining words. Raises ConfigError for roles that the task does not have.
    """
    kind, reader, roles, metrics, primary_metric = _READERS[name]
    options = options or TableOptions()
    roles.check(options)
    parse = partial(reader, options=options)
    return Task(name, kind, FILES, parse, metrics, primary_metric, by_characters=by_characters)


ROLES: Mapping[str, tuple[TaskRoles, Callable[[TaskColumns, Row, str, int], Item | str]]] = {
    "classify": (_CLASSES, text_item), "regress": (_CLASSES, text_item), "multilabel": (_LABEL_SETS, text_item),
    "choice": (_CHOICES, choice_item), "tag": (_TAGS, tagged_item), "answer": (_ANSWERS, question_item),
    "generate": (_PAIRS, generation_item),
}  # fmt: skip
"""Kind of task → the roles of its columns, and what makes an item without its answer of a row."""
NAMES: Mapping[str, str] = {kind: name for name, (kind, *_) in _READERS.items()}
"""Kind of task → the name of the task on data of the user's own."""
TABULAR = tuple(tabular_task(name) for name in _READERS)
