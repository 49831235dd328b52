"""When steps count as many times slower than the first ones, in made-up times."""

from __future__ import annotations

import pytest

from blankfill.training import pace
from blankfill.training.pace import Pace


def warm() -> Pace:
    """A pace of 1 s for 100 tokens, after a first step that took long."""
    steady = Pace()
    assert not steady.step(60.0, 100)
    for _ in range(pace.FIRST):
        assert not steady.step(1.0, 100)
    return steady


def test_steps_that_stay_slow_are_told_once_for_each_time() -> None:
    steady = warm()
    slow = [steady.step(20.0, 100) for _ in range(2 * pace.STEPS)]
    assert slow == ([False] * (pace.STEPS - 1) + [True]) * 2
    assert steady.slower == pytest.approx(20)


@pytest.mark.parametrize(
    ("seconds", "tokens"),
    [
        (7.0, 100),  # seven times: a hot processor, a memory that is shared
        (40.0, 800),  # long rows of a second phase, or a batch that has grown
    ],
)
def test_what_is_no_slowness(seconds: float, tokens: int) -> None:
    steady = warm()
    assert not any(steady.step(seconds, tokens) for _ in range(100))


def test_a_disturbance_that_passes_is_no_slowness() -> None:
    steady = warm()
    for _ in range(20):
        assert not any(steady.step(20.0, 100) for _ in range(pace.STEPS - 1))
        assert not steady.step(1.0, 100)


def test_steps_of_milliseconds_must_be_slow_for_seconds() -> None:
    steady = Pace()
    for _ in range(pace.FIRST + 1):
        steady.step(0.001, 100)
    slow = [steady.step(0.02, 100) for _ in range(600)]
    assert slow.index(True) == pytest.approx(pace.SECONDS / 0.02, abs=1.5)
