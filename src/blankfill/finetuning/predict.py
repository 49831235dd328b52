"""Predictions of a fine-tuned model for new items or for a split of its task, as one call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, overload

from blankfill.corpus.unknown import counting
from blankfill.errors import UserError
from blankfill.finetuning.predictor import AnyPredictor, EnsemblePredictor, Predictor, open_predictor
from blankfill.finetuning.rows import items_of, line_of
from blankfill.finetuning.submit import split_of
from blankfill.tasks.items import Item, MixedItem, Split, labelled
from blankfill.tasks.metrics.bootstrap import scored
from blankfill.tasks.metrics.intervals import Scores
from blankfill.tasks.task import Task

if TYPE_CHECKING:
    from blankfill.finetuning.rows import PythonRow
    from blankfill.tasks.adapter import Prediction


class HoldsPredictor(Protocol):
    """An opened model with a fine-tuned model in it: `inference.Model`."""

    @property
    def predictor(self) -> AnyPredictor: ...


@dataclass(frozen=True)
class Predictions(Sequence["Prediction"]):
    """Predictions for some items, in order.

    model: the model that made them. task: the task of the items. items: the items. predictions: one for each item.
    """

    model: AnyPredictor
    task: Task
    items: Sequence[Item]
    predictions: Sequence[Prediction]

    def __len__(self) -> int:
        return len(self.predictions)

    @overload
    def __getitem__(self, at: int) -> Prediction: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Prediction]: ...
    def __getitem__(self, at: int | slice) -> Prediction | Sequence[Prediction]:
        return self.predictions[at]

    @property
    def values(self) -> list[Any]:
        """The predicted values as the metrics take them: the number of a label, a score, tags, a text."""
        return [prediction.value for prediction in self.predictions]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row of JSON values for each item: its id, the prediction in words, and probabilities if there are any."""
        pairs = zip(self.items, self.predictions, strict=True)
        return [{"id": item.id, **prediction.record} for item, prediction in pairs]

    def metrics(self) -> dict[str, float]:
        """Return the task's metrics. Raises UserError when the items have no answers."""
        return self.scores().metrics

    def scores(self) -> Scores:
        """Return the task's metrics with their intervals. Raises UserError when the items have no answers."""
        own = self.task == self.model.task or any(isinstance(item, MixedItem) for item in self.items[:1])
        if isinstance(self.model, Predictor) and own:
            adapter = self.model.adapter
            if getattr(adapter, "threshold", 0) is None:  # a checkpoint alone does not know the one of its run
                adapter.tune(self.items, self.predictions)
            return adapter.assess(self.items, self.predictions)
        split = Split(self.items, self.model.labels)
        values: Any = self.values
        if self.task.kind == "answer":
            values = {item.id: p.record["answer"] for item, p in zip(self.items, self.predictions, strict=True)}
        return scored(self.task, split, values)

    def labelled(self) -> bool:
        """Return whether the data have the answers of all items, so that `scores` has something to score."""
        return bool(self.items) and all(map(labelled, self.items))


def predict(
    model: str | Path | AnyPredictor | HoldsPredictor,
    items: Iterable[PythonRow | Item] | None = None,
    *,
    data: str | Path | None = None,
    split: str = "test",
    task: str | None = None,
    device: str = "auto",
    threads: int = 0,
    n_best: int = 1,
    search: Mapping[str, Any] | None = None,
    allow_unknown: bool = False,
) -> Predictions:
    """Predict with a fine-tuned model.

    Args:
        model: A run made by `finetune`, one of its checkpoints, the folder of a grid (its best run predicts) or of all
            patterns (their ensemble predicts); or a model that `load` or `open_predictor` has opened, to use it again.
        items: Items of the task; or rows: a text, two with a tab between, a mapping with the fields of the task or
            the columns of the table that the model was fine-tuned on, or a sequence of the values of the fields, such
            as (text, second), (question, context), (context, choices) or a list of words.
        data: In place of `items`, the task's folder, that of its benchmark, or the file of the split itself.
        split: The split of `data`.
        task: The task of `data`, if it differs from the model's own: one with the same labels.
        device: Device to compute on: "auto", "cpu", "cuda", "cuda:1", "mps"; for a model that this call opens.
        threads: CPU threads; 0 for the usual number.
        n_best: For a model that generates text, the number of texts for each item.
        search: For a model that generates text, options that differ from training: beams, length_penalty,
            no_repeat_ngram.
        allow_unknown: Predict although more than 5% of the tokens are unknown to the model's tokenizer.

    Returns:
        A prediction for each item.

    Raises:
        UserError: There is no fine-tuned model in the folder, a row or the data cannot be read, or too many tokens are
            unknown.
        ConfigError: An option of the search has an impossible value.
    """
    if (items is None) == (data is None):
        raise UserError("give either items, or data with the files of a task")
    if items is not None and task is not None:
        raise UserError("task goes with data; leave it out")
    if isinstance(model, str | Path):
        opened = open_predictor(model, device, threads, n_best, search)
    else:
        opened = model if isinstance(model, Predictor | EnsemblePredictor) else model.predictor
    if data is not None:
        from blankfill.finetuning.submit import task_for

        of_task, read = task_for(opened, task), list(split_of(opened, Path(data), split, task).items)
    else:
        of_task, read = opened.task, list(_read(opened, items or ()))
    with counting("the rows", allow=allow_unknown):
        return Predictions(opened, of_task, read, opened.predict(read))


def _read(model: AnyPredictor, rows: Iterable[PythonRow | Item]) -> Iterator[Item]:
    """Return the items of rows; rows that are items already are returned unchanged."""
    if isinstance(rows, str | Mapping):
        raise UserError("give a list of rows; a single row is a list of one")
    for number, row in enumerate(rows):
        if isinstance(row, Item):
            yield row
        else:
            where = f"item {number}"
            yield from items_of(model.task, iter([(where, line_of(model.task, row, where))]), number, model.tables)
