"""What two fine-tuned models predict for the items of their task: its metrics, and how often they predict the same.

The bootstrap draws of a metric depend on the number of items alone, so the resamples of two models are those of the
same items, and their difference has a paired interval.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from blankfill.errors import UserError, setting
from blankfill.finetuning.config import read_config
from blankfill.quantizing.measures.differences import Differences, compare
from blankfill.quantizing.measures.pair import Pair
from blankfill.quantizing.measures.text import run_folder_of
from blankfill.tasks.items import Item, labelled
from blankfill.tasks.metrics.intervals import FEWEST_ROWS, Interval, Scores, interval
from blankfill.tasks.run_files import CONFIG

if TYPE_CHECKING:
    from blankfill.inference import Model
    from blankfill.tasks.adapter import Prediction

AT_ONCE = 64
"""Items that are predicted at a time; the time is checked between them."""
LEAST = 1e-12
"""Probability in place of 0, whose logarithm is not finite."""


@dataclass(frozen=True)
class TaskDifferences:
    """Metrics of two models for the same items.

    metric: name of the task's primary metric. before, after: its values, with intervals where there are enough items.
    change: after − before, with its paired interval. items: number of items. probabilities: differences of the
    predicted probabilities, for tasks that have them.
    """

    task: str
    metric: str
    before: float
    after: float
    interval_before: Interval | None
    interval_after: Interval | None
    interval: Interval | None
    items: int
    probabilities: Differences | None

    @property
    def change(self) -> float:
        """The metric after minus the metric before."""
        return self.after - self.before


def task_items(model: Model, path: Path, data: Path | None, count: int) -> list[Item]:
    """Return items with answers of a model's task, evenly spaced, in a random order.

    path: of the model. data: of the task; None: the data of its run, whose dev set it is. count: the largest number.
    Raises UserError for data that are not given or cannot be read, and for data without answers.
    """
    from blankfill.finetuning.data import read_splits
    from blankfill.finetuning.submit import split_of

    run = run_folder_of(path)
    if data is not None:
        items = split_of(model.predictor, data, "dev").items
    elif (run / CONFIG).is_file():
        config = read_config(run)
        items = read_splits(config.build_task(), config.data, config.options, config.tables).dev.items
    else:
        raise UserError(
            f"{path} does not know the data that it was fine-tuned on; give labelled data with {setting('data')}"
        )
    items = [item for item in items if labelled(item)]
    if not items:
        raise UserError(f"{data or run}: no item has an answer; give labelled data with {setting('data')}")
    chosen = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).astype(int))
    order = np.random.Generator(np.random.Philox(key=[0, len(chosen)])).permutation(chosen)
    return [items[k] for k in order]


def tasks(pair: Pair, items: Sequence[Item], seconds: float) -> TaskDifferences:
    """Compare the predictions of two models for items, as many as the time allows."""
    first, second = list["Prediction"](), list["Prediction"]()
    end = time.monotonic() + seconds
    parts = [items[k : k + AT_ONCE] for k in range(0, len(items), AT_ONCE)]
    if pair.together:
        before, after = (model.predictor for model in pair.models)
        for part in parts:
            if first and time.monotonic() > end:
                break
            first += before.predict(part)
            second += after.predict(part)
    else:
        first = pair.of_original(lambda model: _until(model, parts, seconds / 2))
        second = pair.of_quantised(lambda model: model.predictor.predict(items[: len(first)]))
    used = items[: len(first)]
    return pair.of_original(lambda model: _compared(model, used, first, second))


def _until(model: Model, parts: Sequence[Sequence[Item]], seconds: float) -> list[Prediction]:
    end, made = time.monotonic() + seconds, list["Prediction"]()
    for part in parts:
        if made and time.monotonic() > end:
            break
        made += model.predictor.predict(part)
    return made


def _compared(
    model: Model, items: Sequence[Item], first: Sequence[Prediction], second: Sequence[Prediction]
) -> TaskDifferences:
    from blankfill.finetuning.predict import Predictions

    predictor = model.predictor
    scored: list[Scores] = [
        Predictions(predictor, predictor.task, items, predictions).scores() for predictions in (first, second)
    ]
    metric = predictor.task.primary_metric
    resamples = [scores.resamples.get(metric) for scores in scored]
    between: list[Interval | None] = [None, None, None]
    if len(items) >= FEWEST_ROWS and resamples[0] is not None and resamples[1] is not None:
        between = [interval(values) for values in (resamples[0], resamples[1], resamples[1] - resamples[0])]
    values = [scores.metrics[metric] for scores in scored]
    return TaskDifferences(
        predictor.task.name, metric, values[0], values[1], between[0], between[1], between[2], len(items),
        _probabilities(first, second),
    )  # fmt: skip


def _probabilities(first: Sequence[Prediction], second: Sequence[Prediction]) -> Differences | None:
    """Compare predicted probabilities of one label among several; None for tasks without them."""
    both: list[list[torch.Tensor]] = []
    for predictions in (first, second):
        given: list[Any] = [prediction.record.get("probabilities") for prediction in predictions]
        if any(not isinstance(each, dict) or abs(sum(each.values()) - 1) > 1e-2 for each in given):
            return None
        both.append([torch.tensor([[*each.values()]]).clamp(min=LEAST).log() for each in given])
    targets = [logs.argmax(1) for logs in both[0]]
    return compare(both[0], both[1], targets) if targets else None
