"""The data of a fine-tuning run: the splits of its task, texts without labels, soft labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blankfill.errors import UserError
from blankfill.finetuning.notes import finetuning_note
from blankfill.runs.inputs import Note
from blankfill.system.console import say
from blankfill.tasks.cloze.soft_labels import Scores, read_soft_labels

if TYPE_CHECKING:
    from blankfill.finetuning.config import FinetuneConfig
    from blankfill.tasks.items import Item, QuestionItem, Split
    from blankfill.tasks.options import FinetuneOptions
    from blankfill.tasks.task import Task


@dataclass(frozen=True)
class TaskData:
    """The data of a run. soft_labels: texts with scores that replace labels; unlabelled: the texts of
    `--unlabelled`."""

    task: Task
    train: Split
    dev: Split
    soft_labels: tuple[Split, Scores] | None
    unlabelled: Sequence[Item]

    @property
    def learnt(self) -> Split:
        """The training items: those with soft labels, if there are any."""
        return self.soft_labels[0] if self.soft_labels else self.train

    def note(self, config: FinetuneConfig, model: Note, patterns: str) -> Note:
        """Return the run's record of its inputs. model: the record of the model that the run starts from."""
        return finetuning_note(
            config.values(), self.train, self.dev, self.unlabelled, self.soft_labels, model, patterns
        )


def read_task_data(config: FinetuneConfig) -> TaskData:
    """Read the data of a run. Raises UserError for data that are missing or cannot be read."""
    from blankfill.tasks.cloze.setup import read_unlabelled

    task = config.build_task()
    train, dev = read_splits(task, config.data, config.options)
    soft_labels = (
        read_soft_labels(task, config.soft_labels, task.labels or train.labels) if config.soft_labels else None
    )
    return TaskData(task, train, dev, soft_labels, read_unlabelled(task, config.options, train.labels))


def read_splits(task: Task, data: Path, options: FinetuneOptions) -> tuple[Split, Split]:
    """Read the training and the dev split, and report their problems. Raises UserError for a missing or empty split.

    `max_train_samples` limits the training items. Data without a dev set, such as a single file, are split: see
    `tasks.datasets.held_out`.
    """
    from blankfill.tasks.datasets.held_out import fewer, hold_out
    from blankfill.tasks.text.mixture import Mixture

    if isinstance(task, Mixture):
        places = task.places(data)
        parts = [read_splits(member, places[member.name], options) for member in task.members]
        return task.mixed([train for train, _ in parts]), task.mixed([dev for _, dev in parts])
    splits = task.splits(data) if data.is_dir() else []
    if "train" in splits and "dev" in splits:
        train = task.read(data, "train")
        dev = task.read(data, "dev", train.labels)
        problems = train.problems + dev.problems
    else:
        only = next((name for name in ("train", "all", "dev", *splits) if name in splits), next(iter(task.files)))
        whole = task.read(data, only)
        train, dev = hold_out(whole, options.validation_split)  # the same for every seed, so that runs can be compared
        problems = [*whole.problems, f"{data}: there is no dev set, so {len(dev):,} of the items are held out as one"]
    if columns := train.columns:
        shown = ", ".join(f"{choice.role} {choice.field!r} (by {choice.by})" for choice in columns)
        say(f"{data}: {columns[0].form}; {shown}")
    for problem in problems:
        say(problem)
    for name, split in (("train", train), ("dev", dev)):
        if not len(split):
            raise UserError(f"{data}: the {name} split of {task.name} holds no items")
    if task.kind == "answer" and options.method == "head" and not any(map(_has_place, train.questions())):
        raise UserError(
            f"{data}: none of the {len(train):,} questions can be trained on, since no answer lies at its start in the "
            "context or occurs there exactly once; correct the places of the answers"
        )
    return (fewer(train, options.max_train_samples, options.seed) if options.max_train_samples else train), dev


def _has_place(item: QuestionItem) -> bool:
    """Return whether a question can be trained on: it has an answer with a place, or is known to have none."""
    return bool(item.impossible) or any(answer.start is not None for answer in item.answers)
