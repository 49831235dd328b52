"""What several models say together, and learning from it: PET's ensemble and its last step.

Together models have the mean of their log-probabilities, alike or weighted (Schick and Schütze, arXiv 2001.07676,
section 3.3). A classifier learns from what they say of texts without labels: the scores are kept in a file, a line for
each text, and take the place of the answers (`heads` has the loss).

Not here: training the models (`ensemble`), predicting with them (`predict`).
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
"""Probabilities are written with six digits; 0 may be as much as this."""

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class SoftLabels:
    """What a run learns from instead of labels. texts: a file in the form of the training data; scores: those that
    the teachers give each label of each text."""

    texts: Path
    scores: Path

    def values(self) -> dict[str, str]:
        """As JSON values; paths as they are found from anywhere."""
        return {"texts": str(self.texts.resolve()), "scores": str(self.scores.resolve())}


def combined(logs_PC: NDArray[np.float64], weights: Sequence[float] | None = None) -> NDArray[np.float64]:
    """What P models say together of C labels: the mean of their log-probabilities; alike where all weights are 0."""
    usable = weights if weights is not None and sum(weights) > 0 else None
    return np.asarray(np.average(logs_PC, axis=0, weights=usable), np.float64)


def logs_of(said: Sequence[Mapping[str, float]]) -> NDArray[np.float64]:
    """Return the log-probabilities of labels, float64[P, C], from what P models say of them."""
    return np.log([[max(p, LEAST) for p in probabilities.values()] for probabilities in said])


def score_lines(texts: Split, scores_NC: Sequence[NDArray[np.float64]]) -> str:
    """Return the lines of a file of scores, with the labels of the task by name."""
    lines = [
        json.dumps({"id": item.id, "scores": dict(zip(texts.labels, np.round(scores_C, 6).tolist(), strict=True))})
        for item, scores_C in zip(texts.items, scores_NC, strict=True)
    ]
    return "".join(f"{line}\n" for line in lines)


def read_soft_labels(task: Task, soft_labels: SoftLabels, labels: tuple[str, ...]) -> tuple[Split, Scores]:
    """(the texts, what the teachers say of them, [N, C]). Raises UserError when the files do not belong together."""
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
    """Items, one answer each, that are to be answered as the teachers do."""
    return [
        dataclasses.replace(item, answers=scores_C[None]) for item, scores_C in zip(encoded, scores_NC, strict=True)
    ]
