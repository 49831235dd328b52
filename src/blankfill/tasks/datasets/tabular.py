"""Tasks on the user's own data: tables whose columns are named, or guessed where the names are obvious. Labels are the
values in the data: texts, numbers, true and false (1 and 1.0 are one label). A file without labels is for prediction:
all its rows are kept. In a file with labels, rows without a text or a label are left out and reported.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from blankfill.errors import UserError
from blankfill.tasks.datasets.conll import tag_names
from blankfill.tasks.datasets.tables import ENDINGS, Row, table_rows
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
)  # fmt: skip
from blankfill.tasks.metrics.entities import bio
from blankfill.tasks.task import Task

_TEXTS = (
    ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text_a", "text_b"),
    ("text1", "text2"), ("query", "passage"), ("text",), ("sentence",), ("content",), ("review",), ("text_a",),
    ("文本",), ("内容",),
)  # fmt: skip
_WHOLE = re.compile(r"(-?\d+)\.0+\Z")
_LABELS = ("label", "labels", "score", "target", "class", "category", "标签", "类别")


@dataclass(frozen=True)
class Columns:
    """Names of columns; empty ones are guessed. Numbers count columns from 1 and mean that there is no header.

    text: the text, or two; the words ("tag", a list or a text with spaces); the question and the context ("qa"); the
    context and the choices ("choice": one list, or a column for each); the source and, if wanted, a second ("seq2seq").
    label: the label or labels, score, tags, answer, number or text of the right choice, or target; "multilabel" also
    takes several columns of 0 and 1. id: of a row; by default the number of the row. start: the first character of an
    answer; by default the first occurrence of the answer. separator: separator of the labels in a multi-label text.
    """

    text: tuple[str, ...] = ()
    label: tuple[str, ...] = ()
    id: str | None = None
    start: str | None = None
    separator: str = ","


class _Table:
    """Rows of a file, with the columns checked once."""

    def __init__(
        self, path: Path, columns: Columns, texts: Sequence[tuple[str, ...]], labels: Sequence[str], most: int
    ) -> None:
        self.path, self._columns = path, columns
        named = [*columns.text, *columns.label, columns.id or "", columns.start or ""]
        headless = all(name.isdigit() for name in named if name) and any(named)
        self._rows = [(line, row) for line, row in table_rows(path, headless) if _any(row)]
        if not self._rows:
            raise UserError(f"{path} has no rows: give a file that holds some.")
        known = list(dict.fromkeys(name for _, row in self._rows[:100] for name in row))
        self.text = columns.text or self._guess(known, texts)
        if len(self.text) > most:
            raise UserError(f"{len(self.text)} text columns are named where {most} can be read: name fewer.")
        self.label = columns.label or tuple(name for name in labels if name in known)[:1]
        for name in (*self.text, *columns.label, columns.id, columns.start):
            if name is not None and name not in known:
                raise UserError(f"{path} has no column {name!r}: its columns are {listed(known, 30)}.")
        self.left_out: dict[str, list[int]] = {}
        # A file in which no row has a label is for prediction.
        self.labelled = any(not _empty(row.get(name)) for _, row in self._rows for name in self.label)

    def _guess(self, known: Sequence[str], usual: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        guess = next((names for names in usual if all(name in known for name in names)), None)
        if guess is None:
            raise UserError(
                f"{self.path} has no column that is obviously the text: name one; its columns are {listed(known, 30)}."
            )
        return guess

    def items(self, build: Callable[[Row, str, int], Item | str]) -> list[Item]:
        """Return the items of all rows. build: (row, id, line) → item, or a text that says why to leave the row out."""
        built: list[Item] = []
        for number, (line, row) in enumerate(self._rows):
            id = str(row[self._columns.id]) if self._columns.id else str(number)
            item = build(row, id, line)
            if isinstance(item, str):
                self.left_out.setdefault(item, []).append(line)
            else:
                built.append(item)
        if not built:
            raise UserError(f"{self.path}: every row {next(iter(self.left_out))}: fill that column in.")
        return built

    def problems(self, items: Sequence[Item]) -> list[str]:
        """Return the reasons for rows left out, and ids that occur twice."""
        reasons = [
            f"{self.path}: {len(lines)} of {len(self._rows)} rows left out: each {why} (line {listed(lines)})."
            for why, lines in self.left_out.items()
        ]
        return reasons + duplicate_ids(items, str(self.path))

    def where(self, line: int) -> str:
        return f"{self.path}, line {line}"


def _empty(value: Any) -> bool:
    if isinstance(value, float) and math.isnan(value):
        return True
    return value is None or (isinstance(value, str | list | tuple) and not len(value)) or str(value).strip() == ""


def _any(row: Row) -> bool:
    return any(not _empty(value) for value in row.values())


def _string(value: Any) -> str:
    return "" if value is None else str(value).strip()


def label_name(value: Any) -> str:
    """Return the name of a label: texts stripped, 1.0 as 1 (pandas writes either), true and false in small letters."""
    if isinstance(value, bool):
        return str(value).lower()
    return _WHOLE.sub(r"\1", str(value).strip())


def sorted_labels(names: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct labels: sorted by value if all are numbers, otherwise by name."""
    distinct = set(names)
    try:
        return tuple(sorted(distinct, key=lambda name: (float(name), name)))
    except ValueError:
        return tuple(sorted(distinct))


def _known(table: _Table, names: Iterable[tuple[int, str]], labels: tuple[str, ...]) -> tuple[str, ...]:
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


def read_texts(path: Path, labels: tuple[str, ...], columns: Columns, several: bool = False) -> Split:
    """Read texts or pairs with one label each, or with `several`."""
    table = _Table(path, columns, _TEXTS, _LABELS, 2)

    def build(row: Row, id: str, line: int) -> Item | str:
        texts = [_string(row.get(name)) for name in table.text]
        if table.labelled and not texts[0]:
            return "has no text"
        names = _labels_of(table, row, line, columns.separator, several)
        if table.labelled and not names and not (several and not _missing(table, row)):
            return "has no label"
        met.extend((line, name) for name in names)
        wanted.append(names)
        return TextItem(id, texts[0], texts[1] if len(texts) > 1 else None)

    met: list[tuple[int, str]] = []
    wanted: list[list[str]] = []
    items = [item for item in table.items(build) if isinstance(item, TextItem)]
    problems = table.problems(items)
    if not table.labelled:
        return Split(items, labels, problems)
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
    return Split(labelled, classes, problems)


def _missing(table: _Table, row: Row) -> bool:
    return all(row.get(name) is None for name in table.label)


def _labels_of(table: _Table, row: Row, line: int, separator: str, several: bool) -> list[str]:
    """Return the names of a row's labels."""
    if not several:
        value = row.get(table.label[0]) if table.label else None
        if isinstance(value, list | dict):
            raise UserError(f"{table.where(line)} has several labels: use multilabel.")
        return [] if _empty(value) else [label_name(value)]
    if len(table.label) > 1:
        marks = {name: label_name(row.get(name)).lower() for name in table.label}
        for name, value in marks.items():
            if value not in ("0", "1", "true", "false"):
                raise UserError(f"{table.where(line)} has {value!r} in column {name!r}, where 0 or 1 is wanted.")
        return [name for name, value in marks.items() if value in ("1", "true")]
    value = row.get(table.label[0]) if table.label else None
    parts = value if isinstance(value, list) else _string(value).split(separator)
    return list(dict.fromkeys(label_name(part) for part in parts if not _empty(part)))


def read_numbers(path: Path, labels: tuple[str, ...], columns: Columns) -> Split:
    """Read texts or pairs with a score each. Raises UserError that names the line of a score that is not a finite
    number."""
    table = _Table(path, columns, _TEXTS, _LABELS, 2)

    def build(row: Row, id: str, line: int) -> Item | str:
        texts = [_string(row.get(name)) for name in table.text]
        second = texts[1] if len(texts) > 1 else None
        if not table.labelled:
            return TextItem(id, texts[0], second)
        if not texts[0]:
            return "has no text"
        value = row.get(table.label[0])
        if value is None or _string(value) == "":
            return "has no score"
        try:
            score = float(_string(value))
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise UserError(
                f"{table.where(line)} has the score {value!r}, which is not a finite number: correct or delete it."
            )
        return TextItem(id, texts[0], second, score)

    items = table.items(build)
    return Split(items, (), table.problems(items))


def read_tags(path: Path, labels: tuple[str, ...], columns: Columns) -> Split:
    """Read lists of words with lists of tags (texts are cut at spaces)."""
    table = _Table(path, columns, (("words",), ("tokens",), ("text",)), ("tags", "ner_tags", "labels", "label"), 1)

    def build(row: Row, id: str, line: int) -> Item | str:
        words = _list(row.get(table.text[0]))
        if not words:
            return "has no words"
        if not table.labelled:
            return TaggedItem(id, words)
        tags = _list(row.get(table.label[0]))
        if len(tags) != len(words):
            raise UserError(f"{table.where(line)} has {len(words)} words and {len(tags)} tags: give one for each word.")
        try:
            return TaggedItem(id, words, bio(tags))
        except UserError as error:
            raise UserError(f"{table.where(line)}: {error}") from error

    items = [item for item in table.items(build) if isinstance(item, TaggedItem)]
    tags_in_file = tag_names(items)
    known = _known(table, [(0, name) for name in tags_in_file], labels) if labels else tags_in_file
    return Split(items, known, table.problems(items))


def _list(value: Any) -> tuple[str, ...]:
    if isinstance(value, list | tuple | np.ndarray):
        return tuple(str(part) for part in value)
    return tuple(_string(value).split())


def read_answers(path: Path, labels: tuple[str, ...], columns: Columns) -> Split:
    """Read questions with contexts and an answer each (a text, or a list of texts; empty: no answer)."""
    table = _Table(path, columns, (("question", "context"), ("question", "passage")), ("answer", "answers"), 2)
    elsewhere: list[int] = []
    if len(table.text) < 2:
        raise UserError(f"{path}: questions need two text columns, the question and the context.")

    def build(row: Row, id: str, line: int) -> Item | str:
        question, context = (_string(row.get(name)) for name in table.text)
        if not question or not context:
            return "has no question or no context"
        if not table.labelled:
            return QuestionItem(id, question, context)
        value = row.get(table.label[0])
        texts = [_string(part) for part in value] if isinstance(value, list) else [_string(value)]
        start = row.get(columns.start) if columns.start else None
        answers = tuple(Answer(text, _place(context, text, start)) for text in texts if text)
        if any(answer.start is None for answer in answers):
            elsewhere.append(line)
        return QuestionItem(id, question, context, answers, not answers)

    items = table.items(build)
    if duplicate_ids(items, str(path)):
        raise UserError(duplicate_ids(items, str(path))[0] + " Answers are identified by id: give each row its own.")
    problems = table.problems(items)
    if elsewhere:
        problems.append(
            f"{path}: {len(elsewhere)} rows have an answer that is not at its place in the context: line "
            f"{listed(elsewhere)}; such answers are used to score, not to train."
        )
    return Split(items, (), problems)


def _place(context: str, text: str, start: Any) -> int | None:
    if _empty(start):
        return context.find(text) if text in context else None
    at = int(float(_string(start))) if _string(start).removesuffix(".0").isdigit() else -1
    return at if at >= 0 and context.startswith(text, at) else None


def read_choices(path: Path, labels: tuple[str, ...], columns: Columns) -> Split:
    """Read contexts with choices: one column that holds a list, or a column for each; the label is the number of the
    right choice from 0, or its text."""
    usual = (("context", "choices"), ("question", "choices"), ("question", "options"))
    table = _Table(path, columns, usual, ("label", "answer"), 100)
    if len(table.text) < 2:
        raise UserError(f"{path}: choices need two columns or more, the context and the choices.")

    def build(row: Row, id: str, line: int) -> Item | str:
        values = [row.get(name) for name in table.text[1:]]
        choices = tuple(_string(v) for v in (values[0] if isinstance(values[0], list) else values) if not _empty(v))
        if len(choices) < 2:
            return "has fewer than two choices"
        value = row.get(table.label[0]) if table.label else None
        label = None
        if not _empty(value):
            name = label_name(value)
            label = int(name) if name.isdigit() else choices.index(name) if name in choices else len(choices)
            if label >= len(choices):
                raise UserError(
                    f"{table.where(line)} has the label {name!r}, which is neither the number (from 0) nor the text of "
                    f"one of its {len(choices)} choices."
                )
        elif table.labelled:
            return "has no label"
        return ChoiceItem(id, _string(row.get(table.text[0])), choices, label, () if label is None else (label,))

    items = table.items(build)
    return Split(items, (), table.problems(items))


def read_pairs(path: Path, labels: tuple[str, ...], columns: Columns) -> Split:
    """Read sources, with a second text if its column is named, and targets (a text, or a list of alternatives)."""
    usual = (("source",), ("input",), ("document",), ("article",), ("text",))
    table = _Table(path, columns, usual, ("target", "output", "summary", "title", "label"), 2)

    def build(row: Row, id: str, line: int) -> Item | str:
        texts = [_string(row.get(name)) for name in table.text]
        value = row.get(table.label[0]) if table.label else None
        targets = tuple(_string(part) for part in (value if isinstance(value, list) else [value]) if not _empty(part))
        if table.labelled and not texts[0]:
            return "has no source"
        if table.labelled and not targets:
            return "has no target"
        return GenerationItem(id, texts[0], targets, texts[1] if len(texts) > 1 else None)

    items = table.items(build)
    return Split(items, (), table.problems(items))


_SPLITS = {"train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",)}
_FILES = {
    split: tuple(f"{name}{more}.{ending}" for name in names for more in ("", "-*") for ending in ENDINGS)
    for split, names in _SPLITS.items()
}
_READERS: dict[str, tuple[Any, Any, tuple[str, ...], str]] = {
    "classify": ("classify", read_texts, ("accuracy", "macro-f1"), "accuracy"),
    "regress": ("regress", read_numbers, ("pearson", "spearman", "mse"), "pearson"),
    "multilabel": ("multilabel", partial(read_texts, several=True), ("micro-f1", "macro-f1", "exact"), "micro-f1"),
    "tag": ("tag", read_tags, ("precision", "recall", "f1"), "f1"),
    "qa": ("answer", read_answers, ("exact", "f1"), "f1"),
    "choice": ("choice", read_choices, ("accuracy",), "accuracy"),
    "seq2seq": ("generate", read_pairs, ("rouge1", "rouge2", "rougeL", "bleu"), "rougeL"),
}


def tabular_task(name: str, columns: Columns | None = None, by_characters: bool = False) -> Task:
    """Return a task on the user's own data. name: classify, regress, multilabel, tag, qa, choice or seq2seq.
    by_characters: words are characters (Chinese), for metrics and for joining words."""
    kind, reader, metrics, primary_metric = _READERS[name]
    parse = partial(reader, columns=columns or Columns())
    return Task(name, kind, _FILES, parse, metrics, primary_metric, by_characters=by_characters)


TABULAR = tuple(tabular_task(name) for name in _READERS)
