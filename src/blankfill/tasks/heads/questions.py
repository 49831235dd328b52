"""Questions answered by a span of their context, as BERT does SQuAD 1.1 and 2.0 (Devlin et al. 2019, 4.2 and 4.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blankfill.tasks.adapter import EncodedSet, HeadAdapter, Prediction, Scores
from blankfill.tasks.batching import EncodedItem
from blankfill.tasks.heads.windows import Window, WindowOptions, all_windows, best_spans, n_best_spans
from blankfill.tasks.items import Item, QuestionItem
from blankfill.tasks.metrics.error_analysis import question_analysis
from blankfill.tasks.metrics.questions import best_threshold

USUAL_LENGTH = 384
"""Columns of a window without --max-length (BERT)."""
SHOWN = 5
"""Answers of the n-best list that are shown."""


class Answer(HeadAdapter):
    """A span of the context, or none.

    The target columns are the pooled column and those of the context, in this order; the pooled column represents no
    answer. With `answer_columns` "all" the other columns of the row follow: they can be no part of an answer, but
    compete with those that can.
    """

    head = "span"
    pooled = False
    threshold: float | None = None
    """If questions may have no answer: no answer is predicted when its score exceeds the best answer's by more than
    this value, which `tune` chooses."""

    @property
    def outputs(self) -> int:
        """A score for the beginning of an answer at this column, and a score for its end."""
        return 2

    @property
    def may_refuse(self) -> bool:
        """Whether questions of the task may have no answer."""
        return any(name.startswith("no-answer") for name in self.task.metrics)

    def encode(self, items: Sequence[Item], learn: bool = False) -> EncodedSet:
        """Encode a row for each window of each question's context."""
        length = min(self.options.max_length or USUAL_LENGTH, self.input_format.length)
        extra = self.input_format.length - self.input_format.room(pair=True)
        options = WindowOptions(length, self.options.stride, self.options.max_query_length, extra)
        encoded, windows = [], []
        for window in all_windows(_questions(items), self.tokenizer, options):
            if learn and window.start is None:
                continue
            framed = self.input_format.frame(window.question, window.context)
            columns = np.concatenate([[framed.pooled], np.arange(*framed.second)]).astype(np.int32)
            if self.options.answer_columns == "all":
                others = np.setdiff1d(np.arange(len(framed.example), dtype=np.int32), columns)
                columns = np.concatenate([columns, others])
            answers = np.zeros((len(columns), 2), np.int64)
            for side, place in enumerate((window.start, window.end)):
                answers[0 if place is None or place < 0 else 1 + place, side] = 1
            encoded.append(EncodedItem((framed.example,), (columns,), answers, candidates=True))
            windows.append(window)
        return EncodedSet(items, encoded, windows)

    def predict(self, encoded_set: EncodedSet, scores: Sequence[Scores]) -> list[Prediction]:
        """Return the best spans over all windows of a question."""
        questions = _questions(encoded_set.items)
        of: list[list[tuple[Window, Scores]]] = [[] for _ in questions]
        for window, scores_KC in zip(encoded_set.parts, scores, strict=True):
            of[window.item].append((window, scores_KC))
        predictions = []
        for item, given in zip(questions, of, strict=True):
            longest, windows = self.options.max_answer_length, [window for window, _ in given]
            of_windows = [scores_KC for _, scores_KC in given]
            if self.options.answer_columns == "all":
                spans = n_best_spans(item, windows, of_windows, longest=longest)
            else:
                spans = best_spans(
                    item,
                    windows,
                    [scores_KC[1:, 0] for scores_KC in of_windows],
                    [scores_KC[1:, 1] for scores_KC in of_windows],
                    [float(scores_KC[0].sum()) for scores_KC in of_windows],
                    longest=longest,
                )
            best = [
                {"text": text, "score": round(score, 4)}
                for text, score in zip(spans.texts[:SHOWN], spans.scores, strict=False)
            ]
            shown = {"answer": spans.answer(self.threshold), "null_odds": round(spans.null_odds, 4), "best": best}
            predictions.append(Prediction(spans, shown))
        return predictions

    def tune(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> None:
        """Choose the threshold that gives these items the best F1, if questions may have no answer."""
        if self.may_refuse:
            pairs = list(zip(_questions(items), predictions, strict=True))
            best = {item.id: prediction.value.answer() for item, prediction in pairs}
            odds = {item.id: prediction.value.null_odds for item, prediction in pairs}
            _, self.threshold = best_threshold(_questions(items), best, odds)

    def values(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, str]:
        """Return the answer to each question, by its id."""
        pairs = zip(_questions(items), predictions, strict=True)
        return {item.id: prediction.value.answer(self.threshold) for item, prediction in pairs}

    def record(self, prediction: Prediction) -> dict[str, Any]:
        """Return the answer by the threshold that `tune` chose, which was unknown before."""
        return {**prediction.record, "answer": prediction.value.answer(self.threshold)}

    def parse(self, record: Mapping[str, Any]) -> Prediction:
        """Return the prediction of an answer, "" for none, independent of the odds."""
        return Prediction(PlainAnswer(str(record["answer"])), dict(record))

    def baseline_predictions(self, train: Sequence[Item], items: Sequence[Item]) -> list[Prediction]:
        """Predict no answer if there may be none, else the beginning of the context."""
        refuse = self.may_refuse
        return [
            Prediction(PlainAnswer("" if refuse else item.context.split("\n")[0][:40]), {})
            for item in _questions(items)
        ]

    def error_analysis(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """Return scores by the first word of the question, and the misses."""
        answers = [prediction.value.answer(self.threshold) for prediction in predictions]
        return question_analysis(_questions(items), answers, self.task.by_characters, self.task.metrics)


class PlainAnswer:
    """An answer without a place in the context, in the form of `windows.Spans`."""

    null_odds = 0.0

    def __init__(self, text: str) -> None:
        self.text = text

    def answer(self, threshold: float | None = None) -> str:
        """Return the text, whatever the threshold."""
        return self.text


def _questions(items: Sequence[Item]) -> list[QuestionItem]:
    return [item for item in items if isinstance(item, QuestionItem)]
