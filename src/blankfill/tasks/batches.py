"""Items as the model reads them → batches without padding waste.

The items of a step are drawn by index arithmetic: a permutation of the items for each epoch, keyed by (seed, epoch),
cut into steps. A step holds exactly those items, whatever their lengths; several share a row, told apart by `segment`,
so that hardly a column is padding. Batches for evaluation hold items of like length; their numbers go with them.

Shapes: B rows, T columns, K columns that are asked in the whole batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from blankfill.data.packing import collate
from blankfill.types import Batch, Example, Int32

ROW = 128
"""Rows are this wide, or as wide as the longest item: a wider one costs attention, a narrower one gains nothing."""
ANSWER, ITEM = "answer", "item"
"""The names under which a batch asks for what a task wants: at every asked column; of every item, where the columns of
an item are candidates of which one is right."""


@dataclass(frozen=True)
class Encoded:
    """An item as the model reads it.

    examples: one, or one for each choice. columns: of each example, those that are asked, int32. answers: what they
    should answer, over all examples; its first axis is as long as all `columns` together (the forms are in `heads`).
    candidates: whether the columns are candidates, of which one is right, instead of each having its own answer.
    """

    examples: tuple[Example, ...]
    columns: tuple[Int32, ...]
    answers: NDArray[np.generic]
    candidates: bool = False

    def __len__(self) -> int:
        """Columns that it takes."""
        return sum(map(len, self.examples))


@dataclass(frozen=True)
class Packed:
    """A batch, and which of the given items its asked columns belong to, int64[K]; those of an item are in order."""

    batch: Batch
    items: torch.Tensor
    rows: list[int]
    """The first item of each row."""


def pack(items: Sequence[Encoded], pad: int) -> Packed:
    """Put items into rows, the longest first, each into the first row with room for it."""
    width = max(ROW, max(map(len, items)))
    room: list[int] = []
    rows: list[list[int]] = []
    for k in sorted(range(len(items)), key=lambda k: -len(items[k])):
        size = len(items[k])
        place = next((r for r, left in enumerate(room) if left >= size), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(width)
        rows[place].append(k)
        room[place] -= size
    batch = collate([[one for k in row for one in items[k].examples] for row in rows], pad)
    T = batch.input_ids.shape[1]
    index, owner, answers, leads = [], [], [], []
    for r, row in enumerate(rows):
        column = r * T
        for k in row:
            leads.append(column)
            for example, asked in zip(items[k].examples, items[k].columns, strict=True):
                index.append(asked.astype(np.int64) + column)
                owner.append(np.full(len(asked), k))
                column += len(example)
            answers.append(items[k].answers)
    value, owners = torch.from_numpy(np.concatenate(answers)), torch.from_numpy(np.concatenate(owner))
    labels = {}
    if items[0].candidates:
        value = torch.cat([owners[:, None], value], 1)
        labels[ITEM] = torch.tensor(leads), torch.ones(len(leads), dtype=torch.int64)
    labels[ANSWER] = torch.from_numpy(np.concatenate(index)), value
    return Packed(dataclasses.replace(batch, labels=labels), owners, [row[0] for row in rows])


@dataclass(frozen=True)
class Epochs:
    """Which items a step holds. count: items; size: of a step; the last step of an epoch may be smaller."""

    count: int
    size: int
    seed: int

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return -(-self.count // self.size)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The items of an epoch in their order, int64[count]."""
        return _order(self.count, self.seed, epoch)

    def items(self, step: int) -> NDArray[np.int64]:
        """The items of a step of the run."""
        epoch, place = divmod(step, self.steps)
        return self.order(epoch)[place * self.size : (place + 1) * self.size]


@lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Kept, because every step of an epoch asks."""
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)
    order.flags.writeable = False
    return order


class Batches:
    """The batches of a run's steps. micro: items computed at once, 0 means all of a step."""

    def __init__(self, items: Sequence[Encoded], epochs: Epochs, pad: int, micro: int = 0) -> None:
        self.items, self.epochs, self.pad = items, epochs, pad
        self.micro = micro or epochs.size

    def of(self, step: int) -> list[Packed]:
        """The batches of a step."""
        chosen = self.epochs.items(step)
        return [
            pack([self.items[k] for k in chosen[at : at + self.micro]], self.pad)
            for at in range(0, len(chosen), self.micro)
        ]

    def rows(self, step: int) -> list[int]:
        """For each row of a step's batches, the number of its first item."""
        chosen = self.epochs.items(step)
        starts = range(0, len(chosen), self.micro)
        return [int(chosen[at + k]) for at, packed in zip(starts, self.of(step), strict=True) for k in packed.rows]

    def steps(self, first: int, stop: int) -> Iterator[tuple[int, list[Batch]]]:
        """Steps `first` … `stop` − 1 with their batches."""
        for step in range(first, stop):
            yield step, [packed.batch for packed in self.of(step)]


def evaluation(items: Sequence[Encoded], pad: int, columns: int = 4096) -> Iterator[Packed]:
    """All items once, those of like length together, about so many columns in a batch.

    `Packed.items` counts over all of `items`.
    """
    order = sorted(range(len(items)), key=lambda k: len(items[k]))
    while order:
        size, taken = 0, 0
        while taken < len(order) and (not taken or size + len(items[order[taken]]) <= columns):
            size += len(items[order[taken]])
            taken += 1
        chosen, order = order[:taken], order[taken:]
        packed = pack([items[k] for k in chosen], pad)
        numbers = torch.tensor(chosen)
        yield dataclasses.replace(packed, items=numbers[packed.items], rows=[chosen[k] for k in packed.rows])
