"""Texts, pairs of texts and choices: items that are read as a whole and predicted at one column."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blankfill.tasks.adapter import EncodedSet, HeadAdapter, Prediction, Scores
from blankfill.tasks.batching import EncodedItem
from blankfill.tasks.items import ChoiceItem, Item, TextItem
from blankfill.tasks.metrics.error_analysis import class_analysis, number_analysis, set_analysis, surest_mistakes
from blankfill.types import Int32

LIKELY = 0.5
"""Probability from which a label of a multi-label task is predicted."""


class _Texts(HeadAdapter):
    """One text or a pair, read as a whole."""

    pooled = True

    def encode(self, items: Sequence[Item], learn: bool = False) -> EncodedSet:
        """Encode an Example for each item, with its target at the column that represents the text."""
        texts = _texts(items)
        first = self.tokenizer.encode_batch([item.first for item in texts])
        second = self.tokenizer.encode_batch([item.second or "" for item in texts])
        encoded = []
        for item, a, b in zip(texts, first, second, strict=True):
            framed = self.input_format.frame(a, b if item.second is not None else None)
            self.cut += framed.cut > 0
            columns = np.array([framed.pooled], np.int32)
            encoded.append(EncodedItem((framed.example,), (columns,), self._answer(item)))
        return EncodedSet(items, encoded)

    @abstractmethod
    def _answer(self, item: TextItem) -> NDArray[np.generic]:
        """Return the target of an item; any value of the right type for an item without a label."""


class Classify(_Texts):
    """One of the task's classes."""

    head = "class"

    @property
    def outputs(self) -> int:
        """A score for each class."""
        return len(self.labels)

    def _answer(self, item: TextItem) -> NDArray[np.generic]:
        return np.array([item.label or 0], np.int64)

    def predict(self, encoded_set: EncodedSet, scores: Sequence[Scores]) -> list[Prediction]:
        """The class with the highest score, and the probabilities of all."""
        return [classified(scores_KC[0], self.labels) for scores_KC in scores]

    def parse(self, record: Mapping[str, Any]) -> Prediction:
        """Return a prediction from the name of a class."""
        return Prediction(self.labels.index(record["label"]), dict(record))

    def baseline_predictions(self, train: Sequence[Item], items: Sequence[Item]) -> list[Prediction]:
        """Predict the most frequent class."""
        return [Prediction(int(self.classes(train).argmax()), {})] * len(items)

    def error_analysis(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """Return the confusions, the scores of each class, and the mistakes with the highest probability."""
        gold = [int(label) for label in _labels(items)]
        analysis = class_analysis(self.labels, gold, [prediction.value for prediction in predictions])
        right, shown = [self.labels[k] for k in gold], [prediction.record for prediction in predictions]
        return {**analysis, "surest_mistakes": surest_mistakes(_texts(items), right, shown)}

    def classes(self, items: Sequence[Item]) -> NDArray[np.int64]:
        """Return the number of items of each class."""
        return np.bincount(np.array(_labels(items), np.int64), minlength=len(self.labels))


class Regress(_Texts):
    """A number."""

    head = "number"

    @property
    def outputs(self) -> int:
        """The number itself."""
        return 1

    def _answer(self, item: TextItem) -> NDArray[np.generic]:
        return np.array([item.label or 0.0], np.float32)

    def predict(self, encoded_set: EncodedSet, scores: Sequence[Scores]) -> list[Prediction]:
        """Return the predicted numbers."""
        return [Prediction(float(scores_KC[0, 0]), {"score": round(float(scores_KC[0, 0]), 6)}) for scores_KC in scores]

    def parse(self, record: Mapping[str, Any]) -> Prediction:
        """Return a prediction from a number."""
        return Prediction(float(record["score"]), dict(record))

    def baseline_predictions(self, train: Sequence[Item], items: Sequence[Item]) -> list[Prediction]:
        """Predict the mean."""
        return [Prediction(float(np.mean(_labels(train))), {})] * len(items)

    def error_analysis(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """True and predicted numbers, and the largest errors."""
        return number_analysis(_texts(items), [prediction.value for prediction in predictions])


class Multilabel(_Texts):
    """Each of the task's labels, or not."""

    head = "set"

    @property
    def outputs(self) -> int:
        """A score for each label."""
        return len(self.labels)

    def _answer(self, item: TextItem) -> NDArray[np.generic]:
        answer = np.zeros((1, len(self.labels)), np.float32)
        if isinstance(item.label, tuple):
            answer[0, list(item.label)] = 1
        return answer

    def predict(self, encoded_set: EncodedSet, scores: Sequence[Scores]) -> list[Prediction]:
        """Return the labels with a probability above one half, and the probabilities of all."""
        predictions = []
        for scores_KC in scores:
            likely = 1 / (1 + np.exp(-scores_KC[0].astype(np.float64)))
            places = tuple(int(k) for k in np.flatnonzero(likely >= LIKELY))
            shown = {"labels": [self.labels[k] for k in places], "probabilities": _by_name(self.labels, likely)}
            predictions.append(Prediction(places, shown))
        return predictions

    def parse(self, record: Mapping[str, Any]) -> Prediction:
        """Return a prediction from the names of labels."""
        return Prediction(tuple(sorted(self.labels.index(name) for name in record["labels"])), dict(record))

    def baseline_predictions(self, train: Sequence[Item], items: Sequence[Item]) -> list[Prediction]:
        """Predict the labels of more than half of the items."""
        share = np.mean([self._answer(item)[0] for item in _texts(train)], axis=0)
        return [Prediction(tuple(int(k) for k in np.flatnonzero(share >= LIKELY)), {})] * len(items)

    def error_analysis(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """Return the scores of each label, and the items with most labels wrong."""
        return set_analysis(self.labels, _texts(items), [prediction.value for prediction in predictions])


class Choose(HeadAdapter):
    """One of an item's own choices, each read with its context as a pair (BERT on SWAG)."""

    head = "choice"
    pooled = True

    @property
    def outputs(self) -> int:
        """A score for the choice."""
        return 1

    def encode(self, items: Sequence[Item], learn: bool = False) -> EncodedSet:
        """Encode an Example for each choice; those of an item share a row."""
        encoded = []
        for item in items:
            assert isinstance(item, ChoiceItem)
            context, *choices = self.tokenizer.encode_batch([item.context, *item.choices])
            framed = [self.input_format.frame(context, choice) for choice in choices]
            self.cut += any(row.cut for row in framed)
            right = np.zeros((len(choices), 1), np.int64)
            right[item.label or 0] = 1
            columns: list[Int32] = [np.array([row.pooled], np.int32) for row in framed]
            encoded.append(EncodedItem(tuple(row.example for row in framed), tuple(columns), right, candidates=True))
        return EncodedSet(items, encoded)

    def predict(self, encoded_set: EncodedSet, scores: Sequence[Scores]) -> list[Prediction]:
        """The choice with the highest score, counted from 0, its text, and the probabilities of all."""
        return [chosen(item, scores_KC[:, 0]) for item, scores_KC in zip(encoded_set.items, scores, strict=True)]

    def parse(self, record: Mapping[str, Any]) -> Prediction:
        """Return a prediction from the number of a choice, counted from 0."""
        return Prediction(int(record["label"]), dict(record))

    def baseline_predictions(self, train: Sequence[Item], items: Sequence[Item]) -> list[Prediction]:
        """Predict the most frequent number of the right choice."""
        places = np.bincount([item.label or 0 for item in train if isinstance(item, ChoiceItem)])
        return [Prediction(int(places.argmax()), {})] * len(items)

    def error_analysis(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """Return the mistakes with the highest probability."""
        chosen = [item for item in items if isinstance(item, ChoiceItem)]
        # of several right choices the given one counts, if it is one of them
        right = [
            str(prediction.value if prediction.value in item.right else item.label or 0)
            for item, prediction in zip(chosen, predictions, strict=True)
        ]
        return {"surest_mistakes": surest_mistakes(chosen, right, [prediction.record for prediction in predictions])}


def classified(scores_C: Scores, labels: Sequence[str]) -> Prediction:
    """The class with the highest score, and the probabilities of all."""
    shifted = np.exp(scores_C.astype(np.float64) - scores_C.max())
    likely = shifted / shifted.sum()
    best = int(likely.argmax())
    return Prediction(best, {"label": labels[best], "probabilities": _by_name(labels, likely)})


def chosen(item: Item, scores_C: Scores) -> Prediction:
    """The choice of an item with the highest score, counted from 0, its text, and the probabilities of all."""
    assert isinstance(item, ChoiceItem)
    prediction = classified(scores_C, [str(k) for k in range(len(scores_C))])
    return Prediction(prediction.value, {**prediction.record, "choice": (item.names or item.choices)[prediction.value]})


def _by_name(labels: Sequence[str], likely: NDArray[np.float64]) -> dict[str, float]:
    return {name: round(float(p), 6) for name, p in zip(labels, likely, strict=True)}


def _texts(items: Sequence[Item]) -> list[TextItem]:
    return [item for item in items if isinstance(item, TextItem)]


def _labels(items: Sequence[Item]) -> list[float]:
    return [item.label if isinstance(item.label, int | float) else 0 for item in _texts(items)]
