"""The rules by which several processes decide alike; `test_loop` shows that the loop's decisions pass through them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import pytest

from blankfill.training.agree import ALONE, RULES, Alone, Decision, agree


class Fixed:
    """A group whose members have these values, whatever this process says; this process is the last of them."""

    def __init__(self, *values: Any) -> None:
        self.values, self.rank, self.world_size = values, len(values) - 1, len(values)

    def gather(self, decision: Decision, value: Any) -> Sequence[Any]:
        return self.values


def test_one_process_decides_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is gathered, and the value is the very same object."""
    monkeypatch.delattr(Alone, "gather")
    counts = {"lm": 3}
    assert agree(ALONE, "target counts", counts) is counts


def test_every_decision_has_a_rule() -> None:
    assert set(RULES) == set(get_args(Decision))


@pytest.mark.parametrize(
    ("decision", "values", "result"),
    [
        ("stop", (False, True, False), True),
        ("stop", (False, False), False),
        ("out of memory", (True, False), True),
        ("rows at once", (3, 8, 4), 8),
        ("target counts", ({"lm": 3}, {"lm": 4, "order": 2}), {"lm": 7, "order": 2}),
        ("losses", ({"lm": 0.5}, {}, {"lm": 0.25}), {"lm": 0.75}),
        ("finite", (True, False), False),
        ("finite", (True, True), True),
        ("validation", (0.5, 0.25), 0.5),
        ("checkpoint now", (False, True), True),
        ("compute type", ("bfloat16", "bfloat16"), "bfloat16"),
        ("compute type", ("bfloat16", "float32"), "float32"),
        ("attention kernel", ("blocked", "sdpa"), "sdpa"),
    ],
)
def test_rules(decision: Decision, values: tuple[Any, ...], result: Any) -> None:
    assert agree(Fixed(*values), decision, values[-1]) == result
