"""Evaluating a model that generates text: on all items, or on a sample during training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch

from blankfill.tasks.adapter import Adapter, Prediction
from blankfill.tasks.batching import ANSWER, EvaluationBatches
from blankfill.tasks.chat.adapter import ChatEvaluator, Converse
from blankfill.tasks.heads.models import AnswerModel, task_losses
from blankfill.tasks.items import Item
from blankfill.tasks.text.seq2seq_adapter import Write
from blankfill.tasks.training import HeadEvaluator
from blankfill.training.loop import Metrics, evaluate


class WritingEvaluator:
    """A set of items for which a model generates texts repeatedly; `least` and `best` as in `HeadEvaluator`."""

    def __init__(
        self, adapter: Write, items: Sequence[Item], pad: int, least: float = math.inf, sample: int = 0
    ) -> None:
        """sample: number of items, evenly spaced, for `examine`; 0: all. With fewer than all there is no `best`."""
        self.adapter, self.items, self.pad, self.least = adapter, items, pad, least
        self.best: list[Prediction] | None = None
        self.contexts = adapter.encode(items).parts
        self.sample = adapter.sample(items, min(sample or len(items), len(items)))

    def examine(self, model: AnswerModel, device: torch.device, dtype: torch.dtype) -> tuple[float, Metrics]:
        """Return 1 − the primary metric of the sample, and its mean loss by token with all its metrics."""
        predictions = self._write(model, self.sample)
        self.adapter.tune(self._sampled, predictions)
        metrics = self.adapter.measure(self._sampled, predictions)
        batches = (packed.batch for packed in self._batches)
        loss = evaluate(model, batches, device, dtype, task_losses).get(ANSWER, math.nan)
        model.train()
        missing = 1 - metrics[self.adapter.task.primary_metric]
        if missing < self.least and len(self.sample) == len(self.items):
            self.least, self.best = missing, predictions
        return missing, {"loss": loss, **metrics}

    def predict(self, model: AnswerModel, device: torch.device, dtype: torch.dtype) -> tuple[list[Prediction], float]:
        """Return the generated texts of all items; the loss is not measured, and is NaN."""
        predictions = self._write(model, range(len(self.items)))
        model.train()
        return predictions, math.nan

    @cached_property
    def _batches(self) -> EvaluationBatches:
        return EvaluationBatches(self.adapter.encode(self._sampled).encoded, self.pad)

    @property
    def _sampled(self) -> list[Item]:
        return [self.items[k] for k in self.sample]

    def _write(self, model: AnswerModel, places: Sequence[int]) -> list[Prediction]:
        """Generate the texts of some items in the precision of the weights, since single columns gain nothing from
        less."""
        model.eval()
        items, contexts = [self.items[k] for k in places], [self.contexts[k] for k in places]
        texts = self.adapter.search.run(model.encoder, contexts, self.adapter.input_format.vocabulary)
        return self.adapter.written(items, texts)


def evaluator_for(
    adapter: Adapter, items: Sequence[Item], pad: int, least: float = math.inf, sample: int = 0
) -> HeadEvaluator | WritingEvaluator | ChatEvaluator:
    """Return the evaluator of a model on items. least: see `HeadEvaluator`; sample: see `WritingEvaluator`."""
    if isinstance(adapter, Converse):
        return ChatEvaluator(adapter, items, pad, least, sample)
    if isinstance(adapter, Write):
        return WritingEvaluator(adapter, items, pad, least, sample)
    return HeadEvaluator(adapter, adapter.encode(items), pad, least)
