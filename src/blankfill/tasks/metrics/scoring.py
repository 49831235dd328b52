"""Scores predictions of a split with the metrics of its task, whatever input each metric takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from blankfill.errors import UserError
from blankfill.tasks.items import ChoiceItem, Split
from blankfill.tasks.metrics import classes
from blankfill.tasks.metrics.dialogues import Answered
from blankfill.tasks.metrics.dialogues import answer_metrics as dialogue_metrics
from blankfill.tasks.metrics.entities import tag_metrics
from blankfill.tasks.metrics.generation import text_metrics, without_spaces
from blankfill.tasks.metrics.questions import answer_metrics, scores
from blankfill.tasks.task import Task


def score(task: Task, split: Split, predicted: Any) -> dict[str, float]:
    """Return the metrics of a task, and their mean as "average" where the task uses it. All are shares of 1, but for
    "log-likelihood" and "perplexity".

    predicted: for "classify" and "choice" the index of a label or choice for each item; for "regress" a number; for
    "multilabel" the indices of labels; for "tag" a BIO tag for each word; for "answer" a mapping of question ids to
    texts; for "generate" and "last-word" a text for each item; for "chat" an `Answered` ("language" is measured, not
    predicted, and is not scored here). Raises UserError when the split has no labels, or predictions are missing or not
    finite.
    """
    known = tuple(name for name in task.metrics if name not in task.own_metrics)
    values = _SCORES[task.kind](replace(task, metrics=known), split, predicted)
    values |= {name: float(measure(split, predicted)) for name, measure in task.own_metrics.items()}
    if task.primary_metric == "average":
        values["average"] = sum(values.values()) / len(values)
    return values


def _classes(task: Task, split: Split, predicted: Sequence[int]) -> dict[str, float]:
    items = split.texts()
    gold = _all_answers([item.label for item in items])
    groups = [item.group for item in items]
    values = {}
    for name in task.metrics:
        if name == "group-exact":
            values[name] = classes.grouped_exact(gold, predicted, groups)
        elif name == "parity":
            values[name] = classes.grouped_same(predicted, groups)
        else:
            values |= classes.class_metrics([name], gold, predicted)
    return values


def _numbers(task: Task, split: Split, predicted: Sequence[float]) -> dict[str, float]:
    return classes.number_metrics(task.metrics, _all_answers([item.label for item in split.texts()]), predicted)


def _sets(task: Task, split: Split, predicted: Sequence[Sequence[int]]) -> dict[str, float]:
    gold = _all_answers([item.label for item in split.texts()])
    return classes.set_metrics(task.metrics, gold, predicted, len(split.labels))


def _choices(task: Task, split: Split, predicted: Sequence[int]) -> dict[str, float]:
    items = split.choices()
    gold = _all_answers([item.label for item in items])
    right = [choice_scores(item, int(place)) for item, place in zip(items, predicted, strict=True)]
    values = {
        "accuracy": lambda: classes.class_metrics(["accuracy"], gold, predicted)["accuracy"],
        "exact": lambda: sum(exact for exact, _ in right) / len(right),
        "f1": lambda: sum(f1 for _, f1 in right) / len(right),
    }
    return {name: float(values[name]()) for name in task.metrics}


def choice_scores(item: ChoiceItem, place: int) -> tuple[float, float]:
    """Return (1 for a right choice, F1 of its words with those of the nearest right choice), as ReCoRD counts."""
    names = item.names or item.choices
    pairs = [scores(names[place], names[other]) for other in item.right]
    return max(exact for exact, _ in pairs), max(f1 for _, f1 in pairs)


def _tags(task: Task, split: Split, predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    return tag_metrics(task.metrics, _all_answers([item.tags for item in split.tagged()]), predicted)


def _answers(task: Task, split: Split, predicted: Mapping[str, str]) -> dict[str, float]:
    return answer_metrics(task.metrics, split.questions(), predicted, task.by_characters)


def _texts(task: Task, split: Split, predicted: Sequence[str]) -> dict[str, float]:
    targets = [item.targets for item in split.generations()]
    return text_metrics(task.metrics, targets, predicted, task.by_characters or without_spaces(targets))


def _chats(task: Task, split: Split, predicted: Sequence[Answered]) -> dict[str, float]:
    return dialogue_metrics(task.metrics, split.chats(), predicted, task.by_characters)


def _last_words(task: Task, split: Split, predicted: Sequence[str]) -> dict[str, float]:
    items = split.generations()
    right = [text.strip() in item.targets for item, text in zip(items, predicted, strict=True)]
    return {"accuracy": sum(right) / len(right)}


def _all_answers(gold: Sequence[Any]) -> list[Any]:
    """Return the answers. Raises UserError when one is missing."""
    missing = sum(label is None for label in gold)
    if missing:
        raise UserError(
            f"{missing} of {len(gold)} rows have no label: a test set can be predicted but not scored; score a split "
            f"that has labels, such as dev."
        )
    return list(gold)


_SCORES: dict[str, Callable[[Task, Split, Any], dict[str, float]]] = {
    "classify": _classes, "regress": _numbers, "multilabel": _sets, "choice": _choices, "tag": _tags,
    "answer": _answers, "generate": _texts, "last-word": _last_words, "chat": _chats,
}  # fmt: skip
