"""The interface between a task's items and the model that is fine-tuned.

An adapter encodes texts and adds special tokens, says which columns have targets and which targets these are, turns
scores into predictions, and scores the predictions with the task's metrics. Most adapters have a head that scores
columns (`HeadAdapter`); some answer through the model's language-model head (`LMHeadAdapter`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from blankfill.corpus.tokenizer import Tokenizer
from blankfill.errors import Problem, setting
from blankfill.model.transformer import Transformer
from blankfill.tasks.batching import Batches, EncodedItem, Epochs
from blankfill.tasks.heads.models import AnswerModel, HeadKind
from blankfill.tasks.input_format import InputFormat
from blankfill.tasks.items import Item, Split
from blankfill.tasks.metrics import intervals
from blankfill.tasks.metrics.bootstrap import resampled
from blankfill.tasks.metrics.scoring import score
from blankfill.tasks.options import FinetuneOptions
from blankfill.tasks.task import Task

if TYPE_CHECKING:
    from blankfill.chatting.templates import ChatTemplate

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """The prediction for an item. value: as the metrics take it. record: JSON values, for a reader and for files."""

    value: Any
    record: dict[str, Any]


@dataclass(frozen=True)
class EncodedSet:
    """Encoded items; an item may have several. parts: data on each item that the adapter needs for its prediction."""

    items: Sequence[Item]
    encoded: list[EncodedItem]
    parts: Sequence[Any] = ()


class Adapter(ABC):
    """One kind of task, for one tokenizer and model."""

    from_start: ClassVar[bool] = False
    """Whether the baseline is the model before its training, instead of `baseline_predictions`."""

    def __init__(
        self,
        task: Task,
        labels: tuple[str, ...],
        options: FinetuneOptions,
        tokenizer: Tokenizer | None = None,
        input_format: InputFormat | None = None,
    ) -> None:
        """tokenizer and input_format: those of the model; without them the adapter only measures."""
        self.task, self.labels, self.options = task, labels, options
        self._tokenizer, self._input_format = tokenizer, input_format
        self.cut = 0
        """Number of texts that were truncated so far."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        assert self._tokenizer is not None
        return self._tokenizer

    @property
    def input_format(self) -> InputFormat:
        """The format in which the model reads texts."""
        assert self._input_format is not None
        return self._input_format

    @property
    def chat_template(self) -> ChatTemplate | None:
        """The template that writes dialogues out; None for kinds that have none."""
        return None

    @abstractmethod
    def encode(self, items: Sequence[Item], learn: bool = False) -> EncodedSet:
        """Encode items for the model. learn: whether to leave out items that nothing can be learnt from."""

    def batches(self, items: Sequence[EncodedItem], epochs: Epochs, pad: int, micro: int) -> Batches:
        """Return the batches of a run, from training items of `encode`. micro: items computed at once, 0 means all."""
        return Batches(items, epochs, pad, micro)

    def epochs(self, encoded: Sequence[EncodedItem]) -> Epochs:
        """Return the order in which a run uses the training items of `encode`."""
        return Epochs(len(encoded), self.options.batch_size, self.options.seed)

    def measure(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, float]:
        """Return the task's metrics. Raises UserError when the items have no answers."""
        return score(self.task, Split(items, self.labels), self.values(items, predictions))

    def resampled(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> Mapping[str, NDArray[np.float64]]:
        """Return bootstrap resamples of the metrics; see `metrics.bootstrap.resampled`."""
        return resampled(self.task, Split(items, self.labels), self.values(items, predictions))

    def assess(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> intervals.Scores:
        """Return the metrics with their resamples, from which intervals are computed."""
        return intervals.Scores(self.measure(items, predictions), len(items), self.resampled(items, predictions))

    def values(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> Any:
        """Return the predictions as the metrics take them."""
        return [prediction.value for prediction in predictions]

    def tune(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> None:  # noqa: B027 (most have nothing)
        """Choose what the adapter decides by, such as a threshold, so that these items are scored best."""

    @abstractmethod
    def parse(self, record: Mapping[str, Any]) -> Prediction:
        """Return a prediction from a `Prediction.record`. Raises KeyError, ValueError or TypeError for anything
        else."""

    @abstractmethod
    def baseline_predictions(self, train: Sequence[Item], items: Sequence[Item]) -> list[Prediction]:
        """Return predictions that ignore the items: the most frequent class, the mean, …"""

    def remarks(self) -> list[str]:
        """Return sentences for the user on the items that were encoded so far."""
        if not self.cut:
            return []
        remark = (
            f"{self.cut:,} items are longer than {self.input_format.length} tokens and lose their end; see "
            f"{setting('max_length')}"
        )
        return [Problem(remark)]

    def record(self, prediction: Prediction) -> dict[str, Any]:
        """Return the record of a prediction, available after `measure`."""
        return prediction.record

    def error_analysis(self, items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, Any]:
        """Return an analysis of predictions for items with answers, as JSON values."""
        return {}

    def samples(
        self, items: Sequence[Item], before: Sequence[Prediction], after: Sequence[Prediction]
    ) -> list[dict[str, Any]]:
        """Return predictions before and after the training to be shown beside each other, as JSON values; none for
        kinds whose baseline is not the model before its training."""
        return []

    def examples(self, encoded: Sequence[EncodedItem]) -> list[str]:
        """Return some training rows as texts, with what is learnt marked; none for most kinds."""
        return []

    def packing(self, encoded: Sequence[EncodedItem], epochs: Epochs, pad: int) -> str:
        """Return a sentence on how full the rows of a step are, "" for most kinds."""
        return ""

    def classes(self, items: Sequence[Item]) -> NDArray[np.int64] | None:
        """Return the number of items of each class; None without classes."""
        return None


class HeadAdapter(Adapter):
    """A kind of task whose predictions come from scores of columns."""

    head: ClassVar[HeadKind]
    pooled: ClassVar[bool]
    """Whether target columns represent whole texts."""

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Number of scores of the head for a column."""

    @abstractmethod
    def predict(self, encoded_set: EncodedSet, scores: Sequence[Scores]) -> list[Prediction]:
        """Return predictions for all items from the scores, [columns, C] for each of `encoded_set.encoded`."""


class LMHeadAdapter(Adapter):
    """A kind of task whose predictions come from the model's language-model head: there is no new head."""

    def patterns(self) -> str:
        """Return the YAML text of the task's patterns, which a run stores; "" without patterns."""
        return ""

    @abstractmethod
    def model(self, encoder: Transformer) -> AnswerModel:
        """Return the model that is trained."""
