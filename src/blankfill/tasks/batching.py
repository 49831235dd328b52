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
from typing import NamedTuple

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
class EncodedItem:
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
        """Columns that it takes, those of its context counted."""
        return sum(len(one) + _read(one) for one in self.examples)


def _read(example: Example) -> int:
    """Columns of an Example's context."""
    return 0 if example.context is None else len(example.context)


@dataclass(frozen=True)
class Packed:
    """A batch, and which of the given items its asked columns belong to, int64[K]; those of an item are in order."""

    batch: Batch
    items: torch.Tensor
    rows: list[int]
    """The first item of each row."""


def pack(items: Sequence[EncodedItem], pad: int) -> Packed:
    """Put items into rows, the longest first, each into the first row with room for it.

    An item of several Examples that has no room in a row, such as a question with many candidates, has rows of its own,
    so that rows are no wider than the longest Example and attention costs no more than that. Where Examples have a
    context, a row is full when either side is, each side as wide as its longest Example.
    """
    widths = _Sides(*(
        max(ROW, max(size(one) for item in items for one in item.examples)) for size in (len, _read)
    ))  # fmt: skip
    rows, places, joined = _placed(items, widths)
    batch = collate([[items[k].examples[e] for k, e in row] for row in rows], pad)
    T = batch.input_ids.shape[1]
    starts = _starts(items, rows, T)
    index, owner, answers, leads = [], [], [], []
    for k in places:
        leads.append(starts[k, 0])
        for e, asked in enumerate(items[k].columns):
            index.append(asked.astype(np.int64) + starts[k, e])
            owner.append(np.full(len(asked), k))
        answers.append(items[k].answers)
    value, owners = torch.from_numpy(np.concatenate(answers)), torch.from_numpy(np.concatenate(owner))
    labels = {}
    if items[0].candidates:
        value = torch.cat([owners[:, None], value], 1)
        labels[ITEM] = torch.tensor(leads), torch.ones(len(leads), dtype=torch.int64)
    labels[ANSWER] = torch.from_numpy(np.concatenate(index)), value
    batch = dataclasses.replace(batch, labels=labels, joined=frozenset(joined))
    return Packed(batch, owners, [row[0][0] for row in rows])


class _Sides(NamedTuple):
    """Columns of the two sides of an Example or a row: its own and its context's."""

    own: int
    context: int

    def holds(self, other: _Sides) -> bool:
        """Whether there is room for the other."""
        return self.own >= other.own and self.context >= other.context

    def without(self, other: _Sides) -> _Sides:
        """What is left."""
        return _Sides(self.own - other.own, self.context - other.context)


def _placed(items: Sequence[EncodedItem], widths: _Sides) -> tuple[list[list[tuple[int, int]]], list[int], list[int]]:
    """(what each row holds: item and which Example of it; the items in the order of their rows; rows that go on with
    the item of the row before). widths: of a row."""
    rows: list[list[tuple[int, int]]] = []
    room: list[_Sides] = []
    joined: list[int] = []

    def put(entries: Sequence[tuple[int, int]], size: _Sides, first: int) -> None:
        """Into the first row from `first` on that has room, else a new one."""
        place = next((r for r in range(first, len(rows)) if room[r].holds(size)), len(rows))
        if place == len(rows):
            rows.append([])
            room.append(widths)
        rows[place] += entries
        room[place] = room[place].without(size)

    for k in sorted(range(len(items)), key=lambda k: -len(items[k])):
        sizes = [_Sides(len(one), _read(one)) for one in items[k].examples]
        whole = _Sides(sum(size.own for size in sizes), sum(size.context for size in sizes))
        if widths.holds(whole):
            put([(k, e) for e in range(len(sizes))], whole, 0)
            continue
        first = len(rows)
        for e in sorted(range(len(sizes)), key=lambda e: -sum(sizes[e])):
            put([(k, e)], sizes[e], first)
        joined += range(first + 1, len(rows))
        room[first:] = [_Sides(0, 0)] * (len(rows) - first)  # so that no other item is joined to them
    order = list(dict.fromkeys(k for row in rows for k, _ in row))
    return rows, order, joined


def _starts(
    items: Sequence[EncodedItem], rows: Sequence[Sequence[tuple[int, int]]], width: int
) -> dict[tuple[int, int], int]:
    """Where each Example of each item begins, counted over all rows of a batch."""
    found = {}
    for r, row in enumerate(rows):
        column = r * width
        for k, e in row:
            found[k, e] = column
            column += len(items[k].examples[e])
    return found


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

    def __init__(self, items: Sequence[EncodedItem], epochs: Epochs, pad: int, micro: int = 0) -> None:
        self.items, self.epochs, self.pad = items, epochs, pad
        self.micro = micro or epochs.size

    def of(self, step: int) -> list[Packed]:
        """The batches of a step."""
        items = self.chosen(step)
        return [pack(items[at : at + self.micro], self.pad) for at in range(0, len(items), self.micro)]

    def chosen(self, step: int) -> list[EncodedItem]:
        """The items of a step."""
        return [self.items[k] for k in self.epochs.items(step)]

    def rows(self, step: int) -> list[int]:
        """For each row of a step's batches, the number of its first item."""
        chosen = self.epochs.items(step)
        starts = range(0, len(chosen), self.micro)
        return [int(chosen[at + k]) for at, packed in zip(starts, self.of(step), strict=True) for k in packed.rows]

    def steps(self, first: int, stop: int) -> Iterator[tuple[int, list[Batch]]]:
        """Steps `first` … `stop` − 1 with their batches."""
        for step in range(first, stop):
            yield step, [packed.batch for packed in self.of(step)]


def evaluation(items: Sequence[EncodedItem], pad: int, columns: int = 4096) -> Iterator[Packed]:
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
