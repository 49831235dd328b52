"""Dataclasses from JSON values: every field is of the type that its annotation names, or the field is named."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from blankfill.errors import UserError
from blankfill.system.values import build, spelled


@dataclass(frozen=True)
class Part:
    rate: float = 0.1


@dataclass(frozen=True)
class Whole:
    count: int
    name: str = "x"
    on: bool = False
    kind: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = ()
    pair: tuple[int, str] | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    part: Part = dataclasses.field(default_factory=Part)
    any: Any = None


def test_values_become_what_is_declared() -> None:
    values = {"count": 3, "kind": "b", "sizes": [1, 2], "pair": [4, "y"], "shares": {"z": 1}, "part": {"rate": 2}}
    made = build(Whole, values, "file")
    assert made == Whole(3, "x", False, "b", (1, 2), (4, "y"), {"z": 1.0}, Part(2.0))
    assert isinstance(made.shares["z"], float) and isinstance(made.part.rate, float)
    assert build(Whole, dataclasses.asdict(made), "file") == made


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "^file: a list where an object is expected"),
        ({}, "file: `count` is missing"),
        ({"count": 1, "more": 2}, "file: 'more' is not known"),
        ({"count": True}, "`count`: true or false where a whole number"),
        ({"count": 1.0}, "`count`: a number where a whole number"),
        ({"count": 1, "on": 1}, "`on`: a whole number where true or false"),
        ({"count": 1, "kind": "c"}, "`kind` is 'c'; it must be one of a, b"),
        ({"count": 1, "kind": ["a"]}, "`kind` is"),
        ({"count": 1, "sizes": [1, "2"]}, "`sizes`: a text where a whole number"),
        ({"count": 1, "sizes": "12"}, "`sizes`: a text where a list"),
        ({"count": 1, "pair": [1]}, "`pair` has 1 values where 2 are expected"),
        ({"count": 1, "shares": {"z": "1"}}, "`shares`, 'z': a text where a number"),
        ({"count": 1, "part": {"rate": None}}, "`part`: `rate`: null where a number"),
        ({"count": 1, "part": {"rate": math.inf}}, "`rate` is inf, where a finite number"),
    ],
)
def test_what_does_not_fit_is_named(values: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(Whole, values, "file")


def test_numbers_that_are_not_finite_pass_where_they_may() -> None:
    assert build(Part, {"rate": math.inf}, "file", finite=False) == Part(math.inf)


@pytest.mark.parametrize(
    ("text", "hint", "value"),
    [
        ("1", int, 1), ("-2", int, -2), ("1e-3", float, 1e-3), ("1", float, 1.0), ("True", bool, True),
        ("false", bool, False), ("b", Literal["a", "b"], "b"), ("2", Literal[1, 2], 2), ("", str, ""),
    ],
)  # fmt: skip
def test_a_text_is_read_as_the_annotation_says(text: str, hint: Any, value: Any) -> None:
    found = spelled(text, hint, "--x")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "hint", "said"),
    [
        ("1.0", int, "--x is '1.0'; it must be a whole number"), ("one", float, "--x is 'one'; it must be a number"),
        ("1" * 9999, int, "it must be a whole number"), ("no", bool, "--x is 'no'; it must be true or false"),
        ("", bool, "true or false"), ("c", Literal["a", "b"], "--x is 'c'; it must be one of a, b"),
        ("1", tuple[int, ...], "--x cannot be given as one value"),
    ],
)  # fmt: skip
def test_a_text_of_another_kind_is_refused(text: str, hint: Any, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        spelled(text, hint, "--x")
    assert len(str(caught.value)) < 150
