"""SWAG (CSV) and HellaSwag (JSON Lines): which of four endings continues a situation.

As BERT reads them (arXiv 1810.04805, section 4.4): the first sentence is the context, and each choice is the beginning
of the second sentence with an ending.
"""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any

from blankfill.errors import UserError
from blankfill.tasks.datasets.files import Faults, UnusableError, id_of, part_of, read_objects, text_lines, text_of
from blankfill.tasks.items import ChoiceItem, Item, Split, duplicate_ids
from blankfill.tasks.task import Task

_ENDINGS = ("ending0", "ending1", "ending2", "ending3")


def read_swag(path: Path, labels: tuple[str, ...] = ()) -> Split:
    """Return a split of SWAG; a file without the column label is a test set. UserError for a file of another form."""
    rows = csv.DictReader(text_lines(path))
    missing = [name for name in ("sent1", "sent2", *_ENDINGS) if name not in (rows.fieldnames or ())]
    if missing:
        raise UserError(
            f"{path} has no column {missing[0]!r}: its first line names {', '.join(rows.fieldnames or ())}."
        )
    items: list[ChoiceItem] = []
    faults, count = Faults(path), 0
    for row in rows:
        count += 1
        try:
            items.append(_situation(row, str(count - 1)))
        except UnusableError as error:
            faults.add(rows.line_num, str(error))
    if not count:
        raise UserError(f"{path} has no rows: copy or download it again.")
    return Split(items, (), faults.sentences(count) + duplicate_ids(items, str(path)))


def _situation(row: dict[str, Any], number: str) -> ChoiceItem:
    choices = tuple(f"{row['sent2'] or ''} {text_of(row, ending)}".strip() for ending in _ENDINGS)
    label = _choice(row.get("label"), len(choices))
    return ChoiceItem(row.get("") or number, text_of(row, "sent1"), choices, label, () if label is None else (label,))


def _choice(value: Any, choices: int) -> int | None:
    if value is None or value == "":
        return None
    if not str(value).isdigit() or int(value) >= choices:
        raise UnusableError(f"has the label {value!r} for {choices} choices")
    return int(value)


def _hellaswag(row: dict[str, Any]) -> list[Item]:
    endings = [ending for ending in part_of(row, "endings", list) if isinstance(ending, str)]
    begun = str(row.get("ctx_b") or "")
    label = _choice(row.get("label"), len(endings))
    context = str(row.get("ctx_a") or "").strip()
    if not context:
        context, begun = text_of(row, "ctx"), ""
    choices = tuple(f"{begun} {ending}".strip() for ending in endings)
    return [ChoiceItem(id_of(row, "ind"), context, choices, label, () if label is None else (label,))]


def read_hellaswag(path: Path, labels: tuple[str, ...] = ()) -> Split:
    """Return a split of HellaSwag; rows without a label are a test set's."""
    return read_objects(path, (), _hellaswag)


_choice_task = partial(Task, kind="choice", metrics=("accuracy",), primary_metric="accuracy")

CHOICES = (
    _choice_task(
        name="swag", parse=read_swag, folders=("swag",),
        files={"train": ("train.csv",), "dev": ("val.csv", "dev.csv", "swag_*.csv"), "test": ("test.csv",)},
    ),
    _choice_task(
        name="hellaswag", parse=read_hellaswag, folders=("hellaswag",),
        files={
            "train": ("hellaswag_train.jsonl",), "dev": ("hellaswag_val.jsonl", "hellaswag_val*.jsonl"),
            "test": ("hellaswag_test.jsonl",),
        },
    ),
)  # fmt: skip
