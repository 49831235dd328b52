"""Soft labels: the predictions of several models together, and learning from them: PET's ensemble and its last step.

An ensemble averages log-probabilities, uniformly or weighted (Schick and Schütze, arXiv 2001.07676, section 3.3). A
classifier learns from its predictions for texts without labels: the scores are stored in a file, a line for each text,
and replace the labels (`heads` has the loss).

Not here: training the models (`finetuning.pet`), predicting with them (`finetuning.predictor`).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from blankfill.errors import UserError
from blankfill.system.reading import LARGE, field, parse_json, read_text
from blankfill.tasks.items import Split
from blankfill.tasks.task import Task

if TYPE_CHECKING:
    from blankfill.tasks.batching import EncodedItem

LEAST = 5e-7
"""Largest probability that is written as 0, since probabilities are written with six digits."""

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class SoftLabels:
    """The files that replace labels. texts: a file in the format of the training data; scores: the teachers' scores of
    each label for each text."""

    texts: Path
    scores: Path

    def values(self) -> dict[str, str]:
        """Return the files as JSON values, with absolute paths."""
        return {"texts": str(self.texts.resolve()), "scores": str(self.scores.resolve())}


def combined(logs_PC: NDArray[np.float64], weights: Sequence[float] | None = None) -> NDArray[np.float64]:
    """Average the log-probabilities of P models for C labels; uniformly when all weights are 0."""
    usable = weights if weights is not None and sum(weights) > 0 else None
    return np.asarray(np.average(logs_PC, axis=0, weights=usable), np.float64)


def logs_of(said: Sequence[Mapping[str, float]]) -> NDArray[np.float64]:
    """Return the log-probabilities of labels, float64[P, C], from the probabilities of P models."""
    return np.log([[max(p, LEAST) for p in probabilities.values()] for probabilities in said])


def score_lines(texts: Split, scores_NC: Sequence[NDArray[np.float64]]) -> str:
    """Return the lines of a file of scores, with the labels of the task by name."""
    lines = [
        json.dumps({"id": item.id, "scores": dict(zip(texts.labels, np.round(scores_C, 6).tolist(), strict=True))})
        for item, scores_C in zip(texts.items, scores_NC, strict=True)
    ]
    return "".join(f"{line}\n" for line in lines)


def read_soft_labels(task: Task, soft_labels: SoftLabels, labels: tuple[str, ...]) -> tuple[Split, Scores]:
    """Read the texts and the teachers' scores, [N, C]. Raises UserError when the files do not belong together."""
    texts = task.read(soft_labels.texts, "train", labels)
    file = soft_labels.scores
    try:
        lines = read_text(file, LARGE).split("\n")
        rows = [parse_json(line, file) for line in lines if line]
        if [field(row, "id", str, file) for row in rows] != [item.id for item in texts.items]:
            raise UserError("other ids")
        values = [field(row, "scores", dict, file) for row in rows]
        scores = np.array([[field(value, label, float, file) for label in labels] for value in values], np.float32)
    except UserError as error:
        raise UserError(
            f"{soft_labels.scores}: not the scores of the texts in {soft_labels.texts} ({error}); remove that run and "
            "give the command again"
        ) from error
    return texts, scores


def with_soft_labels(encoded: Sequence[EncodedItem], scores_NC: Scores) -> list[EncodedItem]:
    """Return items with the teachers' scores as targets, one target each."""
    return [
        dataclasses.replace(item, answers=scores_C[None]) for item, scores_C in zip(encoded, scores_NC, strict=True)
    ]
