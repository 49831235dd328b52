"""Items in rows: each once, its columns where they belong, in an order that is a function of seed and step."""

import dataclasses
import functools
import itertools
import operator
import threading

import numpy as np
import pytest
import torch

from blankfill.tasks.batching import ANSWER, ITEM, ROW, Batches, EncodedItem, Epochs, EvaluationBatches, pack
from blankfill.training.loop import split
from blankfill.types import AttentionRule, Batch, Example


def example(ids: list[int]) -> Example:
    nothing = np.zeros(0, np.int32)
    positions = np.arange(len(ids), dtype=np.int32)[None]
    return Example(np.array(ids, np.int32), positions, AttentionRule.full(len(ids)), nothing, nothing)


def item(number: int, length: int, parts: int = 1, columns: int = 2) -> EncodedItem:
    """An item of `parts` examples, whose tokens are all its number, with targets at the first columns of each."""
    columns_of_parts = tuple(np.arange(min(columns, length), dtype=np.int32) for _ in range(parts))
    answers = np.full(parts * min(columns, length), number, np.int64)
    return EncodedItem(tuple(example([number] * length) for _ in range(parts)), columns_of_parts, answers)


@pytest.mark.parametrize("parts", [1, 3])
def test_every_asked_column_is_the_items_own(parts: int) -> None:
    rng = np.random.default_rng(0)
    items = [item(k + 1, int(rng.integers(1, 40)), parts) for k in range(30)]
    packed = pack(items, 0)
    index, value = packed.batch.labels[ANSWER]
    assert ITEM not in packed.batch.labels
    assert packed.batch.input_ids.flatten()[index].tolist() == value.tolist() == (packed.items + 1).tolist()
    assert sorted(set(value.tolist())) == list(range(1, 31))
    assert packed.batch.tokens == sum(map(len, items))
    width = max(ROW, max(map(len, items)))
    assert packed.batch.input_ids.shape[1] <= width + 7
    assert packed.batch.tokens / packed.batch.input_ids.numel() > 0.75
    for r, first in enumerate(packed.rows):
        assert packed.batch.input_ids[r, 0] == first + 1


def test_a_row_is_full_when_either_side_is() -> None:
    """Items of 60 columns with contexts of 30, and the other way round: two in a row of 128, with one of
    30 and 30 beside them."""

    def two_sided(number: int, written: int, read: int) -> EncodedItem:
        plain = item(number, written)
        context = example([number] * read)
        return dataclasses.replace(plain, examples=(dataclasses.replace(plain.examples[0], context=context),))

    items = [two_sided(k + 1, *((60, 30) if k % 2 else (30, 60))) for k in range(8)]
    items += [two_sided(k + 1, 30, 30) for k in range(8, 12)]
    packed = pack(items, 0)
    context = packed.batch.context
    assert context is not None and packed.batch.tokens == sum(map(len, items)) == 8 * 90 + 4 * 60
    rows = [set(row[row > 0].tolist()) for row in packed.batch.input_ids]
    assert rows == [set(row[row > 0].tolist()) for row in context.input_ids]
    assert sorted(number for row in rows for number in row) == list(range(1, 13))
    assert max(packed.batch.input_ids.shape[1], context.input_ids.shape[1]) <= ROW and len(rows) == 4
    own = packed.batch.segment[:, :, None] == context.segment[:, None, :]
    same = packed.batch.input_ids[:, :, None] == context.input_ids[:, None, :]
    assert torch.equal(own, same)


def test_candidates_carry_the_number_of_their_item() -> None:
    rights = [np.array([[0], [1]]), np.array([[1], [0], [0]])]
    items = [
        EncodedItem(
            tuple(example([k + 5] * 4) for _ in right), tuple(np.array([0], np.int32) for _ in right), right,
            candidates=True,
        )
        for k, right in enumerate(rights)
    ]  # fmt: skip
    packed = pack(items, 0)
    index, value = packed.batch.labels[ANSWER]
    where, _ = packed.batch.labels[ITEM]
    assert len(where) == 2
    for number in (0, 1):
        mine = value[:, 0] == number
        assert value[mine, 1].tolist() == rights[number][:, 0].tolist()
        assert packed.batch.input_ids.flatten()[index[mine]].tolist() == [number + 5] * len(rights[number])
    row = packed.batch.part(0, 1)  # all in one row here
    assert torch.equal(row.labels[ANSWER][1], value)


def test_an_epoch_holds_every_item_once_in_another_order_each_time() -> None:
    epochs = Epochs(23, 5, seed=3)
    assert epochs.steps == 5
    orders = []
    for epoch in range(2):
        steps = [epochs.items(epoch * 5 + k).tolist() for k in range(5)]
        assert [len(step) for step in steps] == [5, 5, 5, 5, 3]
        orders.append(functools.reduce(operator.iadd, steps, []))
        assert sorted(orders[-1]) == list(range(23))
    assert orders[0] != orders[1]
    assert Epochs(23, 5, seed=4).items(0).tolist() != epochs.items(0).tolist()


def test_micro_batches_hold_the_items_of_the_step_and_rows_are_named() -> None:
    items = [item(k, 50) for k in range(1, 12)]
    epochs = Epochs(11, 8, seed=0)
    whole, parts = Batches(items, epochs, 0), Batches(items, epochs, 0, micro=3)
    for step in (0, 1):
        values = [
            sorted(torch.cat([packed.batch.labels[ANSWER][1] for packed in batches.of(step)]).tolist())
            for batches in (whole, parts)
        ]
        assert values[0] == values[1] == sorted(2 * (epochs.items(step) + 1).tolist())
        named, rows = parts.rows(step), [row for packed in parts.of(step) for row in packed.batch.input_ids[:, 0]]
        assert [k + 1 for k in named] == [int(row) for row in rows]
    made = list(parts.steps(1, 4))
    assert [step for step, _ in made] == [1, 2, 3]
    for step, batches in made:  # made by a thread, and the same
        assert len(batches) == len(parts.of(step))
        for batch, packed in zip(batches, parts.of(step), strict=True):
            assert torch.equal(batch.input_ids, packed.batch.input_ids)


def test_a_step_is_made_while_the_one_before_is_computed() -> None:
    """The thread makes the next step in advance."""
    made = threading.Event()

    class Watched(Batches):
        def step(self, step: int) -> list[Batch]:
            if step == 1:
                made.set()
            return super().step(step)

    steps = Watched([item(k, 5) for k in range(1, 9)], Epochs(8, 4, seed=0), 0).steps(0, 2)
    assert next(steps)[0] == 0 and made.wait(60)
    steps.close()


def test_evaluation_holds_every_item_once_and_says_which() -> None:
    rng = np.random.default_rng(1)
    items = [item(k + 1, int(rng.integers(1, 30))) for k in range(40)]
    seen: list[int] = []
    batches_of_epoch = EvaluationBatches(items, 0, max_tokens=200)
    batches = list(batches_of_epoch)
    assert [id(packed) for packed in batches_of_epoch] == [id(packed) for packed in batches]  # made once
    assert len(batches) > 3
    for packed in batches:
        assert packed.batch.labels[ANSWER][1].tolist() == (packed.items + 1).tolist()
        seen += set(packed.items.tolist())
        assert [items[k].answers[0] for k in packed.rows] == packed.batch.input_ids[:, 0].tolist()
    assert sorted(seen) == list(range(40))


def test_an_item_of_many_examples_takes_rows_of_its_own() -> None:
    """Rows are as wide as the longest example; those of one item stay together when a batch is halved."""
    items = [item(1, 20), item(2, 60, parts=7), item(3, 20), item(4, 70, parts=3)]
    packed = pack(items, 0)
    index, value = packed.batch.labels[ANSWER]
    assert packed.batch.input_ids.shape[1] <= ROW + 7
    assert packed.batch.input_ids.flatten()[index].tolist() == value.tolist() == (packed.items + 1).tolist()
    assert [len(list(group)) for _, group in itertools.groupby(packed.items.tolist())] == [14, 6, 2, 2]
    assert [row + 1 for row in packed.rows] == [2, 2, 2, 2, 4, 4, 4, 1] and packed.batch.no_split_before == {
        1,
        2,
        3,
        5,
        6,
    }
    halves = split(packed.batch, 2)
    assert [len(half.input_ids) for half in halves] == [4, 4]
    assert sorted(set(halves[0].labels[ANSWER][1].tolist())) == [2] and halves[1].no_split_before == {1, 2}
    assert sum(len(half.labels[ANSWER][1]) for half in halves) == len(value)
    assert [len(half.input_ids) for half in split(packed.batch.part(0, 4), 2)] == [4]
