"""Which things share rows and batches: against plain searches, and every thing once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blankfill.data.packing import FirstFit, best_fit, longest_first, packed_batches, padded_batches

SIZES = st.lists(st.integers(1, 40), max_size=60)


@given(SIZES)
@settings(deadline=None, max_examples=60)
def test_best_fit_takes_the_fullest_row_that_holds_a_piece(sizes: list[int]) -> None:
    row_of, count = best_fit(np.array(sizes, np.int64), 40)
    left: list[int] = []
    for size, row in zip(sizes, row_of.tolist(), strict=True):
        fitting = [room for room in left if room >= size]
        if fitting:
            assert left[row] == min(fitting)
        else:
            assert row == len(left)
            left.append(40)
        left[row] -= size
    assert len(left) == count


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=40), st.integers(0, 5))
@settings(deadline=None, max_examples=60)
def test_first_fit_takes_the_first_row_with_room_on_both_sides(pieces: list[tuple[int, int]], first: int) -> None:
    rows = FirstFit((10, 9))
    left: list[list[int]] = []
    for own, context in pieces:
        holding = [r for r, (a, b) in enumerate(left) if a >= own and b >= context and r >= first]
        expected = holding[0] if holding else len(left)
        assert rows.put((own, context), first) == expected
        if expected == len(left):
            left.append([10, 9])
        left[expected][0] -= own
        left[expected][1] -= context
    assert len(rows) == len(left)


def test_a_closed_row_takes_nothing_more() -> None:
    rows = FirstFit((10,))
    assert [rows.put((2,)), rows.put((9,)), rows.put((3,))] == [0, 1, 0]
    rows.close(1)
    assert rows.put((1,), 1) == 2 and rows.put((5,)) == 0
    assert rows.fits((10,)) and not rows.fits((11,))


@given(SIZES, st.integers(1, 80))
@settings(deadline=None, max_examples=60)
def test_packed_batches_are_as_large_as_they_may_be(sizes: list[int], most: int) -> None:
    """Held against the plain loop: add the next smallest while the sum allows it."""
    order = sorted(range(len(sizes)), key=lambda k: sizes[k])
    expected: list[list[int]] = []
    while order:
        chosen = [order.pop(0)]
        while order and sum(sizes[k] for k in chosen) + sizes[order[0]] <= most:
            chosen.append(order.pop(0))
        expected.append(chosen)
    assert [batch.tolist() for batch in packed_batches(np.array(sizes, np.int64), most)] == expected


def test_padded_batches_by_hand() -> None:
    """Lengths of one kind stay alone once they fill 12 columns; fewer are joined with longer ones."""
    lengths = np.array([4, 3, 4, 9, 3, 4, 30])
    assert [batch.tolist() for batch in padded_batches(lengths, 24, 12)] == [[1, 4, 0, 2, 5], [3], [6]]
    assert [batch.tolist() for batch in padded_batches(lengths, 24, 6)] == [[1, 4], [0, 2, 5], [3], [6]]


@pytest.mark.parametrize(
    ("most", "expected"), [(20, [[2, 0], [3, 1]]), (9, [[2], [0], [3], [1]]), (100, [[2, 0, 3, 1]])]
)
def test_the_longest_come_first(most: int, expected: list[list[int]]) -> None:
    assert [batch.tolist() for batch in longest_first(np.array([7, 5, 10, 7]), most)] == expected
