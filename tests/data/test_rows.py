"""Rows by step: arithmetic that must agree with counting."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blankfill.data.rows import RowSchedule


def test_a_ramp_by_hand() -> None:
    """From 2 rows to 6 over 4 steps: 2, 3, 4, 5, then 6 for good."""
    schedule = RowSchedule(6, start=2, ramp=4)
    assert [len(schedule.rows(step)) for step in range(6)] == [2, 3, 4, 5, 6, 6]
    assert [schedule.first(step) for step in range(6)] == [0, 2, 5, 9, 14, 20]
    assert RowSchedule(6).rows(3) == range(18, 24)
    assert RowSchedule(6, skipped=100).rows(3) == range(118, 124)


@given(size=st.integers(1, 40), start=st.integers(0, 40), ramp=st.integers(0, 30), skipped=st.integers(0, 50))
def test_steps_follow_one_another_and_every_row_knows_its_step(size: int, start: int, ramp: int, skipped: int) -> None:
    schedule = RowSchedule(size, min(start, size), ramp, skipped)
    end = skipped
    before = 0
    for step in range(50):
        rows = schedule.rows(step)
        assert rows.start == end and before <= len(rows) <= size
        assert all(schedule.step_of(row) == step for row in rows)
        end, before = rows.stop, len(rows)
    assert before == size


@pytest.mark.parametrize("ramp", [0, 10])
def test_far_ahead_is_arithmetic(ramp: int) -> None:
    schedule = RowSchedule(256, 32, ramp)
    assert schedule.first(10**9) - schedule.first(10**9 - 1) == 256


def test_a_ramp_counted_in_rows_by_hand() -> None:
    """From 2 rows to 6 by 2, each after 10 of 20 rows: five steps of 2 rows, three of 4, then 6."""
    schedule = RowSchedule(6, start=2, ramp=20, increment=2, in_rows=True)
    assert [len(schedule.rows(step)) for step in range(10)] == [2] * 5 + [4] * 3 + [6] * 2
    assert schedule.first(8) == 22 and schedule.step_of(21) == 7 and schedule.step_of(22) == 8


def test_increments_of_a_ramp_counted_in_steps() -> None:
    """From 2 rows to 7 by 3 over 4 steps, of which the last increment is cut: 2, 2, 5, 5, 7."""
    schedule = RowSchedule(7, start=2, ramp=4, increment=3)
    assert [len(schedule.rows(step)) for step in range(5)] == [2, 2, 5, 5, 7]


@given(size=st.integers(1, 40), start=st.integers(1, 40), ramp=st.integers(0, 300), increment=st.integers(1, 50))
def test_every_row_of_a_ramp_in_rows_knows_its_step(size: int, start: int, ramp: int, increment: int) -> None:
    schedule = RowSchedule(size, min(start, size), ramp, 3, increment, in_rows=True)
    end, before = 3, 0
    for step in range(50):
        rows = schedule.rows(step)
        assert rows.start == end and before <= len(rows) <= size
        assert rows.start - 3 < ramp or len(rows) == size
        assert all(schedule.step_of(row) == step for row in rows)
        end, before = rows.stop, len(rows)
