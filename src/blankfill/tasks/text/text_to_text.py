"""Text-to-text: a model reads the item as text and generates the answer (T5, section 2.4).

Predictions, metrics and analyses are those of the adapters of heads; only the encoding of items and the reading of
generated answers are this module's own. Not here: the text of a task (`text_form`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blankfill.errors import UserError, setting
from blankfill.generation.beam import Hypothesis
from blankfill.tasks.adapter import Adapter, EncodedSet, Prediction
from blankfill.tasks.heads.questions import Answer, PlainAnswer
from blankfill.tasks.heads.texts import Choose, Classify, Multilabel, Regress
from blankfill.tasks.items import ChoiceItem, GenerationItem, Item, QuestionItem, TextItem
from blankfill.tasks.metrics.error_analysis import class_analysis
from blankfill.tasks.text.seq2seq_adapter import Write
from blankfill.tasks.text.text_form import NO_ANSWER, NO_LABEL, TextForm, form_text, nearest, number_in, read_form

READ: dict[str, type[Adapter]] = {
    "classify": Classify, "regress": Regress, "multilabel": Multilabel, "choice": Choose, "answer": Answer,
    "generate": Write,
}  # fmt: skip
"""Kinds of tasks with a text form, and the adapters that measure them."""
LONGEST_NUMBER = 8
"""Largest number of tokens of a number."""
WORST = 20
"""Number of mistakes in the error analysis."""


class TextToText(Write):
    """A task whose answers are generated."""

    @cached_property
    def form(self) -> TextForm:
        """The form of the task. Raises UserError or ConfigError for an invalid form."""
        text, origin = form_text(self.options.patterns, self.task.name)
        return read_form(text, origin, self.task, self.labels)

    def patterns(self) -> str:
        """Return the task's form."""
        return form_text(self.options.patterns, self.task.name)[0]

    @cached_property
    def read_by(self) -> Adapter:
        """The adapter that measures predictions."""
        return READ[self.task.kind](self.task, self.labels, self.options)

    @property
    def max_target_length(self) -> int:
        """Largest number of tokens of an answer: that of the longest label, for tasks with labels."""
        kind, own = self.task.kind, self.form.choice is not None
        if self.options.max_target_length or kind in ("generate", "multilabel"):
            return self.options.max_target_length
        if kind == "classify":
            return max(len(ids) for ids in self.tokenizer.encode_batch(list(self.form.labels.values())))
        return self.options.max_answer_length + 2 if kind == "answer" or (kind == "choice" and own) else LONGEST_NUMBER

    def encode(self, items: Sequence[Item], learn: bool = False) -> EncodedSet:
        """Encode items as sources and targets; see `Write.encode`. Raises UserError for labels that the tokenizer
        cannot express or distinguish."""
        if learn:
            self._check_labels()
        texts = [GenerationItem(item.id, self.form.read(item), self.form.answers(item)) for item in items]
        encoded_set = super().encode(texts, learn)
        return EncodedSet(items, encoded_set.encoded, encoded_set.parts)

    def _check_labels(self) -> None:
        owners: dict[str, str] = {}
        for (label, word), text in zip(self.form.labels.items(), self._labels_written, strict=True):
            problem = ""
            if self.input_format.vocabulary.roles.get("unk", -1) in self.tokenizer.encode(word):
                problem = f"the tokenizer has no tokens for {word}, which is written for the label {label}"
            elif (owner := owners.setdefault(text, label)) != label:
                problem = f"the tokenizer writes the labels {owner} and {label} alike ({text})"
            if problem:
                raise UserError(
                    f"{problem}; give other words with {setting('patterns', 'FILE')} (docs/text-to-text.md)"
                )

    @cached_property
    def _labels_written(self) -> list[str]:
        return self._as_written(list(self.form.labels.values()))

    def _as_written(self, texts: Sequence[str]) -> list[str]:
        """Encode and decode texts, since the tokenizer may change case and spaces."""
        return [self.tokenizer.decode(ids).strip() for ids in self.tokenizer.encode_batch(list(texts))]

    def check_answers(self, items: Sequence[Item]) -> None:
        """Raise UserError when some items have no answer for the metrics."""
        self.measure(items, self.baseline_predictions(items, items))

    def measure(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, float]:
        """Return the task's metrics."""
        return self.read_by.measure(items, predictions)

    def resampled(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> Mapping[str, NDArray[np.float64]]:
        """Return bootstrap resamples of the metrics."""
        return self.read_by.resampled(items, predictions)

    def parse(self, record: Mapping[str, Any]) -> Prediction:
        """Return the prediction as the adapter of the task's kind does."""
        return self.read_by.parse(record)

    def baseline_predictions(self, train: Sequence[Item], items: Sequence[Item]) -> list[Prediction]:
        """Return predictions that ignore the items."""
        return self.read_by.baseline_predictions(train, items)

    def written(self, items: Sequence[Item], texts: Sequence[Sequence[Hypothesis]]) -> list[Prediction]:
        """Return predictions from the generated texts of each item."""
        return [self._answered(item, self._decided(hypotheses)) for item, hypotheses in zip(items, texts, strict=True)]

    def _answered(self, item: Item, written: Prediction) -> Prediction:
        text = str(written.value)
        record = {"written": text, **({"best": written.record["best"]} if "best" in written.record else {})}
        if isinstance(item, GenerationItem):
            return written
        if isinstance(item, QuestionItem):
            answer = "" if text.casefold() == NO_ANSWER else text
            return Prediction(PlainAnswer(answer), {"answer": answer, **record})
        if isinstance(item, ChoiceItem):
            place = nearest(text, self._as_written(self.form.choices(item)))
            return Prediction(place, {"label": str(place), "choice": (item.names or item.choices)[place], **record})
        assert isinstance(item, TextItem)
        if self.task.kind == "regress":
            return Prediction(number_in(text), {"score": number_in(text), **record})
        words = self._labels_written
        if self.task.kind == "multilabel":
            given = [part for part in text.split(",") if part.strip() and part.strip().casefold() != NO_LABEL]
            places = tuple(sorted({nearest(part, words) for part in given}))
            return Prediction(places, {"labels": [self.labels[place] for place in places], **record})
        place = nearest(text, words)
        return Prediction(place, {"label": self.labels[place], **record})

    def error_analysis(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """Return the analysis of the adapter of the task's kind; for classes and choices the confusions, wrong answers,
        and the number of texts that match no answer of the task (`other_texts`)."""
        if self.task.kind == "generate":
            return super().error_analysis(items, predictions)
        if self.task.kind not in ("classify", "choice"):
            return self.read_by.error_analysis(items, predictions)
        known = [
            self._as_written(self.form.choices(item)) if isinstance(item, ChoiceItem) else self._labels_written
            for item in items
        ]
        written = [str(prediction.record.get("written", "")) for prediction in predictions]
        analysis: dict[str, Any] = {
            "other_texts": sum(text not in texts for text, texts in zip(written, known, strict=True)),
            "wrong_answers": [
                {"id": item.id, "text": self.form.read(item), "right": self.form.answers(item)[0], "given": text}
                for item, text, prediction in zip(items, written, predictions, strict=True)
                if isinstance(item, TextItem | ChoiceItem) and not _is_right(item, prediction.value)
            ][:WORST],
        }
        if self.task.kind == "classify":
            gold = [item.label for item in items if isinstance(item, TextItem) and isinstance(item.label, int)]
            analysis |= class_analysis(self.labels, gold, [prediction.value for prediction in predictions])
        return analysis


def _is_right(item: TextItem | ChoiceItem, place: int) -> bool:
    return place == item.label or (isinstance(item, ChoiceItem) and place in item.right)
