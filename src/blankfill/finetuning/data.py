"""The data of a fine-tuning run: the splits of its task, texts without labels, soft labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from blankfill.errors import UserError, setting
from blankfill.finetuning.notes import finetuning_note
from blankfill.runs.inputs import Note
from blankfill.system.console import say
from blankfill.tasks.cloze.soft_labels import Scores, read_soft_labels
from blankfill.tasks.items import ChatItem, labelled

if TYPE_CHECKING:
    from blankfill.corpus.tables.options import TableOptions
    from blankfill.finetuning.config import FinetuneConfig
    from blankfill.tasks.items import Item, QuestionItem, Split
    from blankfill.tasks.options import FinetuneOptions
    from blankfill.tasks.task import Task


@dataclass(frozen=True)
class TaskData:
    """The data of a run.

    test: the items of `--test-split`, None without it. soft_labels: texts with scores that replace labels. unlabelled:
    the texts of `--unlabelled`.
    """

    task: Task
    train: Split
    dev: Split
    test: Split | None
    soft_labels: tuple[Split, Scores] | None
    unlabelled: Sequence[Item]

    @property
    def learnt(self) -> Split:
        """The training items: those with soft labels, if there are any."""
        return self.soft_labels[0] if self.soft_labels else self.train

    def note(self, config: FinetuneConfig, model: Note, patterns: str) -> Note:
        """Return the run's record of its inputs. model: the record of the model that the run starts from."""
        return finetuning_note(
            config.values(), self.train, self.dev, self.test, self.unlabelled, self.soft_labels, model, patterns
        )


def read_task_data(config: FinetuneConfig) -> TaskData:
    """Read the data of a run. Raises UserError for data that are missing or cannot be read."""
    from blankfill.tasks.cloze.setup import read_unlabelled

    task = config.build_task()
    train, dev, test = read_splits(task, config.data, config.options, config.tables)
    soft_labels = (
        read_soft_labels(task, config.soft_labels, task.labels or train.labels) if config.soft_labels else None
    )
    return TaskData(task, train, dev, test, soft_labels, read_unlabelled(task, config.options, train.labels))


_TARGETS = frozenset(("label", "tags", "answer", "target"))
"""Roles of the columns that a model predicts."""


class Splits(NamedTuple):
    """The labelled data of a run. test: None without `--test-split`."""

    train: Split
    dev: Split
    test: Split | None


def read_splits(task: Task, data: Path, options: FinetuneOptions, tables: TableOptions | None = None) -> Splits:
    """Read the training, the dev and the test split, and report their problems. Raises UserError for a missing or empty
    split.

    `max_train_samples` limits the training items. Data without a dev set, such as a single file, are split: see
    `tasks.datasets.held_out`. A test set that is a fraction is held out first, so that it does not depend on the dev
    set. tables: how the user's own tables are read.
    """
    from blankfill.tasks.datasets.held_out import fewer, hold_out
    from blankfill.tasks.text.mixture import Mixture

    if isinstance(task, Mixture):
        places = task.places(data)
        parts = [read_splits(member, places[member.name], options, tables) for member in task.members]
        test = task.mixed([part.test for part in parts if part.test is not None]) if options.test_split else None
        return Splits(task.mixed([part.train for part in parts]), task.mixed([part.dev for part in parts]), test)
    splits = task.splits(data) if data.is_dir() else []
    own_dev = "train" in splits and "dev" in splits
    only = next((name for name in ("train", "all", "dev", *splits) if name in splits), next(iter(task.files)))
    train = task.read(data, "train" if own_dev else only)
    problems, test = list(train.problems), None
    if options.test_fraction is not None:
        train, test = hold_out(train, options.test_fraction, name="test")
        problems.append(f"{data}: {len(test):,} of the training items are held out as a test set")
    elif options.test_split:
        used = ("train", "dev") if own_dev else (only,)
        test = _named_test(task, data, splits, used, options.test_split, train.labels)
        problems += test.problems
    if own_dev:
        dev = task.read(data, "dev", train.labels)
        problems += dev.problems
    else:
        train, dev = hold_out(train, options.validation_split)  # the same for every seed, so that runs can be compared
        problems.append(f"{data}: there is no dev set, so {len(dev):,} of the items are held out as one")
    if columns := train.columns:
        shown = ", ".join(f"{choice.role} {choice.field!r} (by {choice.by})" for choice in columns)
        say(f"{data}: {columns[0].form}; {shown}")
    for problem in problems:
        say(problem)
    for name, split in (("train", train), ("dev", dev), ("test", test)):
        if split is not None and not len(split):
            raise UserError(f"{data}: the {name} split of {task.name} holds no items")
    for name, split in (("train", train), ("dev", dev)):
        if not any(map(labelled, split.items)):
            raise UserError(_without_labels(task.file(data, name if own_dev else only), split, tables))
    if task.kind == "answer" and options.method == "head" and not any(map(_has_place, train.questions())):
        raise UserError(
            f"{data}: none of the {len(train):,} questions can be trained on, since no answer lies at its start in the "
            "context or occurs there exactly once; correct the places of the answers"
        )
    return Splits(
        fewer(train, options.max_train_samples, options.seed) if options.max_train_samples else train, dev, test
    )


def _without_labels(file: Path, split: Split, tables: TableOptions | None) -> str:
    """Return a sentence about a split in which nothing is labelled."""
    from blankfill.corpus.tables.columns import listed
    from blankfill.corpus.tables.reading import open_table

    if split.items and isinstance(split.items[0], ChatItem):
        return (
            f"{file}: none of its dialogues has an answer of the assistant, so there is nothing to "
            f"learn: give dialogues with answers, or name their column with {setting('columns', 'response=NAME')}."
        )
    if not split.columns:
        return f"{file} has no labels, so a model can neither learn nor be scored by it: is this the right file?"
    names = {choice.field for choice in split.columns if choice.role in _TARGETS}
    problem = (
        f"every row is empty in {listed(sorted(map(repr, names)))}" if names else "no column is obviously the label"
    )
    columns = listed(map(repr, open_table(file, tables).columns))
    return f"{file}: {problem}: name one with {setting('columns', 'label=NAME')}; its columns are {columns}."


def _named_test(
    task: Task, data: Path, splits: Sequence[str], used: Sequence[str], name: str, labels: tuple[str, ...]
) -> Split:
    """Return a split of the data as the test set. used: the splits that the run learns from and chooses by."""
    free = [split for split in splits if split not in used]
    instead = f"give {' or '.join([*free[:3], 'a fraction of the training examples, such as 0.1'])}"
    if not data.is_dir():
        raise UserError(f"{setting('test_split', name)}: {data} is one file, without splits; {instead}")
    if name in used:
        raise UserError(f"{setting('test_split', name)}: the run learns from {name}, or chooses by it; {instead}")
    if name not in splits:
        raise UserError(f"{setting('test_split', name)}: {data} has no such split of {task.name}; {instead}")
    test = task.read(data, name, labels)
    if without := sum(not labelled(item) for item in test.items):
        raise UserError(
            f"{setting('test_split', name)}: {without:,} of {len(test):,} items of that split of {task.name} have no "
            "label, so it cannot be scored; give a fraction of the training examples, such as 0.1"
        )
    return test


def _has_place(item: QuestionItem) -> bool:
    """Return whether a question can be trained on: it has an answer with a place, or is known to have none."""
    return bool(item.impossible) or any(answer.start is not None for answer in item.answers)
