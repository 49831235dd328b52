"""The interface between a task's items and the model that is fine-tuned.

An adapter encodes texts and adds special tokens, says which columns have targets and which targets these are, turns
scores into predictions, and scores the predictions with the task's metrics. Most adapters have a head that scores
columns (`HeadAdapter`); some answer through the model's language-model head (`LMHeadAdapter`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import Problem, setting
from blankfill.model.transformer import Transformer
from blankfill.tasks.batching import Batches, EncodedItem, Epochs
from blankfill.tasks.heads.models import AnswerModel, HeadKind
from blankfill.tasks.input_format import InputFormat
from blankfill.tasks.items import Item, Split
from blankfill.tasks.metrics.scoring import score
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.task import Task

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """The prediction for an item. value: as the metrics take it. record: JSON values, for a reader and for files."""

    value: Any
    record: dict[str, Any]


@dataclass(frozen=True)
class EncodedSet:
    """Items as the model reads them; an item may take several. parts: what the adapter wants to know of each again."""

    items: Sequence[Item]
    encoded: list[EncodedItem]
    parts: Sequence[Any] = ()


class Adapter(ABC):
    """One kind of task, for one tokenizer and model."""

    def __init__(
        self,
        task: Task,
        labels: tuple[str, ...],
        options: FinetuneOptions,
        tokenizer: Tokenizer | None = None,
        input_format: InputFormat | None = None,
    ) -> None:
        """tokenizer and input_format: of the model; without them nothing can be encoded, only measured."""
        self.task, self.labels, self.options = task, labels, options
        self._tokenizer, self._input_format = tokenizer, input_format
        self.cut = 0
        """Texts that lost their end in what was encoded so far."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        assert self._tokenizer is not None
        return self._tokenizer

    @property
    def input_format(self) -> InputFormat:
        """How the model reads texts."""
        assert self._input_format is not None
        return self._input_format

    @abstractmethod
    def encode(self, items: Sequence[Item], learn: bool = False) -> EncodedSet:
        """The items as the model reads them. learn: leave out what nothing can be learnt from."""

    def batches(self, items: Sequence[EncodedItem], epochs: Epochs, pad: int, micro: int) -> Batches:
        """The batches of a run, from what `encode` made to learn from. micro: items computed at once, 0 means all."""
        return Batches(items, epochs, pad, micro)

    def epochs(self, encoded: Sequence[EncodedItem]) -> Epochs:
        """In which order a run goes through what `encode` made to learn from."""
        return Epochs(len(encoded), self.options.batch_size, self.options.seed)

    def measure(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, float]:
        """The task's metrics. Raises UserError when the items have no answers."""
        return score(self.task, Split(items, self.labels), [prediction.value for prediction in predictions])

    @abstractmethod
    def parse(self, record: Mapping[str, Any]) -> Prediction:
        """A prediction from a `Prediction.record`. Raises KeyError, ValueError or TypeError for anything else."""

    @abstractmethod
    def baseline_predictions(self, train: Sequence[Item], items: Sequence[Item]) -> list[Prediction]:
        """Predictions by who has not read the items: the most frequent class, the mean, …"""

    def remarks(self) -> list[str]:
        """What a user should know of what was encoded so far, a sentence each."""
        if not self.cut:
            return []
        remark = (
            f"{self.cut:,} items are longer than {self.input_format.length} tokens and lose their end; see "
            f"{setting('max_length')}"
        )
        return [Problem(remark)]

    def record(self, prediction: Prediction) -> dict[str, Any]:
        """The record of a prediction, as it is after `measure`."""
        return prediction.record

    def error_analysis(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """What else is worth knowing of predictions for items with answers, as JSON values."""
        return {}

    def classes(self, items: Sequence[Item]) -> NDArray[np.int64] | None:
        """How many items each class has, where there are classes."""
        return None


class HeadAdapter(Adapter):
    """A kind of task that is answered with scores of columns."""

    head: ClassVar[HeadKind]
    pooled: ClassVar[bool]
    """Whether target columns stand for whole texts."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """How many scores the head gives for a column."""

    @abstractmethod
    def predict(self, encoded_set: EncodedSet, scores: Sequence[Scores]) -> list[Prediction]:
        """Predictions for all items from the scores, [columns, C] for each of `encoded_set.encoded`."""


class LMHeadAdapter(Adapter):
    """A kind of task that is answered with the model's own words: there is no new head."""

    def patterns(self) -> str:
        """The YAML text that says how the task is put, which a run keeps; "" where there is nothing to say."""
        return ""

    @abstractmethod
    def model(self, encoder: Transformer) -> AnswerModel:
        """The model that is trained."""
