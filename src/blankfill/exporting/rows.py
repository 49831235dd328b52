"""The rows on which an exported head is compared: items of the task's dev set, or given texts and pairs of texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blankfill.convert.check import LONGEST, TEXTS, real_text
from blankfill.errors import UserError
from blankfill.families.task_heads import HeadKind
from blankfill.finetuning.config import read_config
from blankfill.tasks.input_format import InputFormat
from blankfill.tasks.items import ChatItem, ChoiceItem, GenerationItem, Item, QuestionItem, TaggedItem, TextItem

if TYPE_CHECKING:
    from blankfill.checkpoint.load import Loaded
    from blankfill.finetuning.predictor import Predictor
    from blankfill.objectives import FramedRow

Row = tuple[str, str | None]
"""A text, or a pair."""
PAIR_WORDS = 12
"""Words of each text of a pair that is made of a text."""


@dataclass(frozen=True)
class Rows:
    """Rows to compare. count: number of items or texts that they were made from. task: name of the task whose dev set
    has these items; "" for texts."""

    rows: Sequence[Row]
    count: int
    task: str = ""

    @property
    def texts(self) -> list[str]:
        """The texts alone, the first of a pair."""
        return [first for first, _ in self.rows]


def rows_to_compare(
    predictor: Predictor, loaded: Loaded, path: Path, lines: Sequence[str] | None, kind: HeadKind
) -> Rows:
    """Return the rows of a comparison.

    lines: given texts; without them the dev set of the run's task, where its data are still in their place, else the
    usual texts (`real_text`). kind: of the head.
    """
    if lines is None and (items := dev_items(predictor)):
        rows = [fitted(predictor, row) for item in items for row in rows_of_item(item)]
        return Rows(rows, len(items), predictor.task.name)
    texts = lines if lines is not None else real_text(loaded, path)
    return Rows([fitted(predictor, row) for row in rows_of(texts, kind)], len(texts))


def dev_items(predictor: Predictor) -> list[Item]:
    """Return some items of the dev set of a run's task, evenly spaced; none if its data cannot be read any more."""
    from blankfill.exporting.cards import run_of

    try:
        config = read_config(run_of(predictor.path)[0])
        task = config.build_task()
        names = task.splits(config.data) if config.data.is_dir() else []
        name = next((name for name in ("dev", "all", "train") if name in names), next(iter(task.files)))
        items = task.read(config.data, name, tuple(predictor.labels)).items
    except UserError:
        return []
    return [items[k] for k in np.unique(np.linspace(0, len(items) - 1, min(TEXTS, len(items))).astype(int))]


def rows_of_item(item: Item) -> list[Row]:
    """Return the rows of an item of a task; one for each choice."""
    if isinstance(item, TextItem):
        return [(item.first, item.second)]
    if isinstance(item, TaggedItem):
        return [(" ".join(item.words), None)]
    if isinstance(item, QuestionItem):
        return [(item.question, item.context)]
    if isinstance(item, ChoiceItem):
        return [(item.context, choice) for choice in item.choices]
    if isinstance(item, ChatItem):
        questions: list[Row] = [(message.content, None) for message in item.messages if message.role == "user"]
        return questions
    return [(item.source, None)] if isinstance(item, GenerationItem) else []


def longest_row(predictor: Predictor) -> int:
    """Return the largest number of tokens of a row that is compared."""
    return min(LONGEST, predictor.adapter.input_format.length)


def framed(predictor: Predictor, first: str, second: str | None) -> FramedRow:
    """Return a text or a pair as the task reads it, cut to the length of rows that are compared."""
    tokenizer, format = predictor.adapter.tokenizer, predictor.adapter.input_format
    cut = InputFormat(format.format, longest_row(predictor), format.encoder_only)
    return cut.frame(tokenizer.encode(first), None if second is None else tokenizer.encode(second))


def fitted(predictor: Predictor, row: Row) -> Row:
    """Return a pair, shortened by words so that no program must cut it: programs cut pairs in different ways."""
    first, second = row
    if second is None:
        return row
    adapter = predictor.adapter
    room = longest_row(predictor) - adapter.input_format.length + adapter.input_format.room(True)
    words = [first.split(" "), second.split(" ")]
    while sum(len(adapter.tokenizer.encode(" ".join(part))) for part in words) > room:
        longer = words[len(words[1]) >= len(words[0])]
        if len(longer) == 1:
            longer[0] = longer[0][: len(longer[0]) // 2]
        else:
            del longer[-max(1, len(longer) // 4) :]
    return " ".join(words[0]), " ".join(words[1])


def rows_of(texts: Sequence[str], kind: HeadKind) -> Iterator[Row]:
    """Yield texts and pairs of texts to compare; choices and answers are pairs."""
    for text in texts:
        words = text.split()
        if kind in ("text", "token"):
            yield text, None
        if kind != "token" and len(words) > 1:
            middle = min(len(words) // 2, PAIR_WORDS)
            yield " ".join(words[:middle]), " ".join(words[middle : middle + PAIR_WORDS])
