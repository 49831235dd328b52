"""From encoded items to batches with little padding.

Index arithmetic draws the items of a step: a permutation of the items for each epoch, keyed by (seed, epoch) and cut
into steps. A step holds exactly these items, whatever their lengths; several share a row, separated by `segment`, so
that few columns are padding. Batches for evaluation hold items of similar length, with their numbers.

Shapes: B rows, T columns, K target columns of the whole batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from blankfill.data.batching import collate, collate_texts, prefetch
from blankfill.data.packing import MAX_TOKENS, FirstFit, packed_batches
from blankfill.types import Batch, Example, Int32

ROW = 128
"""Width of a row, unless an item is longer: wider rows cost attention, narrower ones gain nothing."""
ANSWER, ITEM = "answer", "item"
"""Names of the targets of a batch: one for every target column; one for every item whose columns are candidates, of
which one is right."""


@dataclass(frozen=True)
class EncodedItem:
    """An item encoded for the model.

    examples: one, or one for each choice. columns: the target columns of each example, int32. answers: the targets of
    all these columns, in order (`heads` lists their forms). candidates: whether the columns are candidates, of which
    one is right, instead of each having its own answer.
    """

    examples: tuple[Example, ...]
    columns: tuple[Int32, ...]
    answers: NDArray[np.generic]
    candidates: bool = False

    def __len__(self) -> int:
        """Return the number of columns of the item, with those of its context."""
        return sum(sum(_sides(example)) for example in self.examples)


def _sides(example: Example) -> tuple[int, int]:
    """Return the columns of an Example and of its context."""
    return len(example), 0 if example.context is None else len(example.context)


@dataclass(frozen=True)
class Packed:
    """A batch, and the item of each of its target columns, int64[K]; the columns of an item are in order."""

    batch: Batch
    items: torch.Tensor
    rows: list[int]
    """The first item of each row."""


def pack(items: Sequence[EncodedItem], pad: int, flat: bool = False) -> Packed:
    """Pack items into rows, the longest first, each into the first row with room for it. flat: all into a single row,
    in their order, for a model that reads texts in a row alone (`Batch.texts`).

    An item of several Examples that has no room in a row, such as a question with many candidates, has rows of its own,
    so that rows are no wider than the longest Example and attention costs no more than that. Where Examples have a
    context, a row is full when either side is, each side as wide as its longest Example.
    """
    sizes = [_sides(example) for item in items for example in item.examples]
    capacity = (max(ROW, max(own for own, _ in sizes)), max(ROW, max(context for _, context in sizes)))
    if flat:
        rows = [[(k, e) for k, item in enumerate(items) for e in range(len(item.examples))]]
        places, no_split_before = list(range(len(items))), list[int]()
        batch = collate_texts([items[k].examples[e] for k, e in rows[0]], pad)
    else:
        rows, places, no_split_before = _placed(items, capacity)
        batch = collate([[items[k].examples[e] for k, e in row] for row in rows], pad)
    T = batch.input_ids.shape[1]
    starts = _starts(items, rows, T)
    index, owner, answers, leads = [], [], [], []
    for k in places:
        leads.append(starts[k, 0])
        for e, columns in enumerate(items[k].columns):
            index.append(columns.astype(np.int64) + starts[k, e])
            owner.append(np.full(len(columns), k))
        answers.append(items[k].answers)
    value, owners = torch.from_numpy(np.concatenate(answers)), torch.from_numpy(np.concatenate(owner))
    labels = {}
    if items[0].candidates:
        value = torch.cat([owners[:, None], value], 1)
        labels[ITEM] = torch.tensor(leads), torch.ones(len(leads), dtype=torch.int64)
    labels[ANSWER] = torch.from_numpy(np.concatenate(index)), value
    batch = dataclasses.replace(batch, labels=labels, no_split_before=frozenset(no_split_before))
    return Packed(batch, owners, [row[0][0] for row in rows])


def _placed(
    items: Sequence[EncodedItem], capacity: tuple[int, int]
) -> tuple[list[list[tuple[int, int]]], list[int], list[int]]:
    """Return the content of each row (items with the number of their Example), the items in the order of their rows,
    and the rows that continue the item of the row before. capacity: columns of a row and of its context."""
    fitted = FirstFit(capacity)
    content: list[list[tuple[int, int]]] = []
    no_split_before: list[int] = []

    def put(entries: Sequence[tuple[int, int]], size: tuple[int, int], first: int) -> None:
        row = fitted.put(size, first)
        if row == len(content):
            content.append([])
        content[row] += entries

    for k in sorted(range(len(items)), key=lambda k: -len(items[k])):
        sizes = [_sides(example) for example in items[k].examples]
        whole = (sum(own for own, _ in sizes), sum(context for _, context in sizes))
        if fitted.fits(whole):
            put([(k, e) for e in range(len(sizes))], whole, 0)
            continue
        first = len(content)
        for e in sorted(range(len(sizes)), key=lambda e: -sum(sizes[e])):
            put([(k, e)], sizes[e], first)
        no_split_before += range(first + 1, len(content))
        fitted.close(first)  # so that no other item is joined to them
    order = list(dict.fromkeys(k for row in content for k, _ in row))
    return content, order, no_split_before


def _starts(
    items: Sequence[EncodedItem], rows: Sequence[Sequence[tuple[int, int]]], width: int
) -> dict[tuple[int, int], int]:
    """Return the first column of each Example of each item, counted over all rows of a batch."""
    starts = {}
    for r, row in enumerate(rows):
        column = r * width
        for k, e in row:
            starts[k, e] = column
            column += len(items[k].examples[e])
    return starts


@dataclass(frozen=True)
class Epochs:
    """The items of each step. count: number of items; size: items of a step; the last step of an epoch may be
    smaller."""

    count: int
    size: int
    seed: int

    @property
    def steps(self) -> int:
        """Number of steps of an epoch."""
        return -(-self.count // self.size)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Return the items of an epoch in their order, int64[count]."""
        return _order(self.count, self.seed, epoch)

    def items(self, step: int) -> NDArray[np.int64]:
        """Return the items of a step of the run."""
        epoch, place = divmod(step, self.steps)
        return self.order(epoch)[place * self.size : (place + 1) * self.size]


@lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of an epoch; cached, since every step of the epoch needs it."""
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)
    order.flags.writeable = False
    return order


class Batches:
    """The batches of a run's steps. micro: items computed at once, 0 means all of a step."""

    def __init__(self, items: Sequence[EncodedItem], epochs: Epochs, pad: int, micro: int = 0) -> None:
        self.items, self.epochs, self.pad = items, epochs, pad
        self.micro = micro or epochs.size

    def of(self, step: int) -> list[Packed]:
        """Return the batches of a step, with the numbers of their items."""
        items = self.chosen(step)
        return [pack(items[at : at + self.micro], self.pad) for at in range(0, len(items), self.micro)]

    def step(self, step: int) -> list[Batch]:
        """Return the batches of a step."""
        return [packed.batch for packed in self.of(step)]

    def chosen(self, step: int) -> list[EncodedItem]:
        """Return the items of a step."""
        return [self.items[k] for k in self.epochs.items(step)]

    def rows(self, step: int) -> list[int]:
        """Return the number of the first item in each row of a step's batches."""
        chosen = self.epochs.items(step)
        starts = range(0, len(chosen), self.micro)
        return [int(chosen[at + k]) for at, packed in zip(starts, self.of(step), strict=True) for k in packed.rows]

    def steps(self, first: int, stop: int) -> Generator[tuple[int, list[Batch]], None, None]:
        """Yield steps `first` … `stop` − 1 with their batches; a thread makes a few in advance."""
        yield from prefetch((step, self.step(step)) for step in range(first, stop))


class EvaluationBatches:
    """All items once, items of similar length together; made in a thread the first time, then kept in memory.

    max_tokens: columns of a batch. flat: see `pack`. `Packed.items` holds indices into `items`.
    """

    def __init__(
        self, items: Sequence[EncodedItem], pad: int, max_tokens: int = MAX_TOKENS, flat: bool = False
    ) -> None:
        self.items, self.pad, self.max_tokens, self.flat = items, pad, max_tokens, flat
        self._made: list[Packed] | None = None

    def __iter__(self) -> Iterator[Packed]:
        if self._made is not None:
            yield from self._made
            return
        made = []
        small = sum(map(len, self.items)) <= self.max_tokens  # a single batch needs no thread
        for packed in self._make() if small else prefetch(self._make()):
            made.append(packed)
            yield packed
        self._made = made

    def _make(self) -> Iterator[Packed]:
        for chosen in packed_batches(np.array([len(item) for item in self.items], np.int64), self.max_tokens):
            packed = pack([self.items[k] for k in chosen], self.pad, self.flat)
            numbers = torch.from_numpy(chosen)
            rows = [int(chosen[k]) for k in packed.rows]
            yield dataclasses.replace(packed, items=numbers[packed.items], rows=rows)
