"""Whether a fine-tuned model has learnt its task: its score against the baseline, and predictions that never differ.

A model is better than the baseline when the 95% bootstrap interval of the difference of their scores on the same items
lies above 0. Not here: what to try next (`advice`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from blankfill.tasks.items import ChatItem, ChoiceItem, Item, MixedItem, QuestionItem, TaggedItem, TextItem
from blankfill.tasks.metrics.intervals import FEWEST_ROWS, Interval, Scores, figure, interval

if TYPE_CHECKING:
    from blankfill.tasks.adapter import Adapter, Prediction

BASELINES = {
    "classify": "the most frequent class", "choice": "the most frequent place of the right choice",
    "regress": "the mean", "multilabel": "the labels that most examples have", "tag": "the usual tag of each word",
    "answer": "the same answer to every question, or the beginning of the context",
    "generate": "the first sentence of the source", "chat": "the model before fine-tuning",
}  # fmt: skip
"""The baseline of each kind of task, in words."""
FROM_START = "chat"
"""The kind of task whose baseline is the model before fine-tuning."""
HARDLY = 0.01
"""Predicted numbers that spread less than this share of the true numbers count as one number."""


def baseline_name(kind: str) -> str:
    """Return what a score of a kind of task is compared with, for a line of results."""
    return "before fine-tuning" if kind == FROM_START else "baseline (ignores the texts)"


@dataclass(frozen=True)
class Comparison:
    """A score beside that of the baseline on the same items.

    difference: score minus baseline. between: its interval, None for a metric without resamples. items: their number.
    resamples: of the difference, float64[R].
    """

    difference: float
    between: Interval | None
    items: int
    resamples: NDArray[np.float64] | None = None

    @property
    def better(self) -> bool:
        """Whether the score is higher than the baseline by more than chance explains."""
        if self.between is None:
            return self.difference > 0
        return self.between[0] > 0 and self.items >= FEWEST_ROWS

    def values(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        between = None if self.between is None else list(self.between)
        return {"difference": self.difference, "interval": between, "better": self.better}

    def sentence(self) -> str:
        """Return the difference with its interval, with a sign."""
        if self.between is None:
            return f"{self.difference:+.4f}"
        return f"{self.difference:+.4f} [{self.between[0]:+.4f}, {self.between[1]:+.4f}]"


def compare(scores: Scores, baseline: Scores, metric: str) -> Comparison:
    """Compare the scores of a model with those of the baseline on the same items, by one metric."""
    difference = scores.metrics[metric] - baseline.metrics[metric]
    ours, plain = scores.resamples.get(metric), baseline.resamples.get(metric)
    if ours is None or plain is None:
        return Comparison(difference, None, scores.items)
    return Comparison(difference, interval(ours - plain), scores.items, ours - plain)


def warnings(
    comparison: Comparison, scores: Scores, baseline: Scores, metric: str, kind: str, same: str, name: str
) -> list[str]:
    """Return a sentence for each sign that the model has not learnt the task; none for a model that has.

    same: what the model predicts for every item, "" where predictions differ. name: of the set of items.
    """
    sentences = []
    if same:
        sentences.append(f"the model gives {same} for all {scores.items:,} examples of the {name} set")
    if not comparison.better:
        how = "no better" if comparison.difference <= 0 else "not clearly better"
        of_kind = f" ({BASELINES[kind]})" if kind in BASELINES else ""
        score = figure(scores.metrics[metric], scores.intervals.get(metric))
        sentences.append(
            f"the model is {how} than the baseline{of_kind}: {metric} {score} against {baseline.metrics[metric]:.4f}, "
            f"difference {comparison.sentence()}, on {scores.items:,} examples of the {name} set"
        )
    return sentences


def same_for_all(adapter: Adapter, items: Sequence[Item], predictions: Sequence[Prediction]) -> str:
    """Return what a model predicts for every item, in words; "" where predictions differ, where the right answers are
    all the same as well, and for a handful of items."""
    tasks = dict.fromkeys(item.task for item in items if isinstance(item, MixedItem))
    if tasks:
        sames = []
        for name in tasks:
            own = [(item.item, p) for item, p in zip(items, predictions, strict=True)
                   if isinstance(item, MixedItem) and item.task == name]  # fmt: skip
            if same := _same([item for item, _ in own], [p for _, p in own], adapter.values([], [p for _, p in own])):
                sames.append(f"{same} ({name})")
        return ", ".join(sames)
    values = adapter.values(items, predictions)
    return _same(items, predictions, list(values.values()) if isinstance(values, dict) else values)


def _same(items: Sequence[Item], predictions: Sequence[Prediction], values: Sequence[Any]) -> str:
    if len(items) < FEWEST_ROWS:
        return ""
    first = items[0]
    if isinstance(first, ChatItem):
        said = [value.text for value in values if value.text is not None]
        return f"the answer {_shortened(said[0])}" if len(said) >= FEWEST_ROWS and len(set(said)) == 1 else ""
    right = {_right(item) for item in items}
    if isinstance(first, TextItem) and isinstance(first.label, float):
        numbers = np.array([item.label for item in items if isinstance(item, TextItem)], np.float64)
        close = np.std(np.asarray(values, np.float64)) < HARDLY * np.std(numbers)
        return f"nearly the same number ({np.mean(values):.3f})" if close else ""
    if isinstance(first, TaggedItem):
        tags = {tag for row in values for tag in row}
        return f"the tag {tags.pop()} to every word" if len(tags) == 1 and len(right) > 1 else ""
    if len(set(values)) > 1 or len(right) < 2:
        return ""
    record = predictions[0].record
    if isinstance(first, ChoiceItem):
        return f"choice {values[0]} (counted from 0)"
    if isinstance(first, QuestionItem):
        return f"the answer {_shortened(values[0])}" if values[0] else "no answer"
    if isinstance(first, TextItem) and isinstance(first.label, tuple):
        return f"the labels {', '.join(record.get('labels', []))}" if values[0] else "no label"
    if isinstance(first, TextItem):
        return f"the label {record.get('label', values[0])}"
    return f"the text {_shortened(str(values[0]))}"


def _right(item: Item) -> object:
    """Return the right answer of an item, to compare it with those of other items."""
    if isinstance(item, TextItem | ChoiceItem):
        return item.label
    if isinstance(item, TaggedItem):
        return item.tags
    if isinstance(item, QuestionItem):
        return item.answers[0].text if item.answers else ""
    return getattr(item, "targets", None)


def _shortened(text: str) -> str:
    return f"“{text[:40]}…”" if len(text) > 40 else f"“{text}”"
