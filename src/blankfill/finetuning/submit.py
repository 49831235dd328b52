"""A fine-tuned model's predictions for a split of its task, and the files of a benchmark's submission."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from blankfill.errors import UserError, setting
from blankfill.system.files import disk_errors, make_folder, write_file
from blankfill.tasks.datasets.registry import task_named
from blankfill.tasks.items import MixedItem, Split
from blankfill.tasks.task import Task
from blankfill.tasks.text.mixture import Mixture

if TYPE_CHECKING:
    from blankfill.finetuning.predictor import AnyPredictor


def split_of(model: AnyPredictor, data: Path, split: str, task: str | None = None) -> Split:
    """Return the items of a split of the model's task, or of another task with the same kind and labels."""
    of_split, whole = task_for(model, task), model.task
    if of_split is whole or not isinstance(whole, Mixture):
        return of_split.read(data, split, model.labels)
    read = of_split.read(data, split, whole.labels_of(of_split, model.labels))
    return dataclasses.replace(read, items=[MixedItem(item.id, of_split.name, item) for item in read.items])


def task_for(model: AnyPredictor, task: str | None) -> Task:
    """Return the model's task, a member of its mixture, or the named task; UserError when its answers differ."""
    other = model.task if task is None else task_named(task)
    if isinstance(model.task, Mixture) and other in model.task.members:
        return other
    if other.kind != model.task.kind or (other.labels and other.labels != model.labels):
        raise UserError(
            f"{setting('task', other.name)}: the model was fine-tuned for {model.task.name}, which has other answers; "
            "give a model of the same labels"
        )
    return other


def write_submission(
    model: AnyPredictor, data: Path, split: str, task: str | None, out: Path, window: int
) -> list[tuple[Path, int]]:
    """Predict a split and write the files of its benchmark: (file, number of predictions) of each.

    window: items that are predicted together. Raises UserError when a row of the split was left out as faulty, since a
    submission must contain all rows, and when `out` cannot be made.
    """
    from blankfill.tasks.datasets.files import find_file
    from blankfill.tasks.datasets.submission import submission

    with disk_errors(out, f"give another folder with {setting('out')}"):
        make_folder(out)
    of_split = task_for(model, task)
    if isinstance(of_split, Mixture):
        raise UserError(f"{setting('submission')}: name the task with {setting('task')}, one of {of_split.name}")
    read = split_of(model, data, split, task)
    if lost := read.losses():
        raise UserError(f"a submission must answer every row, and {lost[0]}")
    predictions = [
        prediction for at in range(0, len(read), window) for prediction in model.predict(read.items[at : at + window])
    ]
    file = find_file(data, of_split.folders, of_split.files[split], f"{split} file of {of_split.name}")
    items = [item.item if isinstance(item, MixedItem) else item for item in read.items]
    texts = submission(of_split, split, file, items, predictions)
    for name, text in texts.items():
        write_file(out / name, text)
    return [(out / name, len(read)) for name in texts]
