"""Dataclasses from JSON values: every field is of the type that its annotation names, or the field is named."""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from blankfill.corpus.tables.options import TableOptions
from blankfill.errors import ConfigError, Problem, UserError, in_flags, setting, within
from blankfill.system.loader import MismatchError, build, load, read_text
from blankfill.system.schema import RENAMED, Option, expected, fields_of, nearest
from blankfill.tasks.options import FinetuneOptions
from blankfill.training.options import TrainOptions


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
        ({"count": 1, "more": 2}, "file: 'more' is not known; was it written by a later version"),
        ({"count": 1, "nme": "y"}, "file: 'nme' is not known; did you mean name?"),
        ({"count": True}, "file: `count` is True; it must be a whole number"),
        ({"count": 1.0}, "`count` is 1.0; it must be a whole number"),
        ({"count": 1, "on": 1}, "`on` is 1; it must be true or false"),
        ({"count": 1, "kind": "c"}, "`kind` is 'c'; it must be one of a, b"),
        ({"count": 1, "kind": ["a"]}, "`kind` is"),
        ({"count": 1, "sizes": [1, "2"]}, "`sizes`, 1 is '2'; it must be a whole number"),
        ({"count": 1, "sizes": "12"}, "`sizes` is '12'; it must be a list"),
        ({"count": 1, "pair": [1]}, r"`pair` is \[1\]; it must be a list of 2 values"),
        ({"count": 1, "shares": {"z": "1"}}, "`shares`, 'z' is '1'; it must be a number"),
        ({"count": 1, "part": {"rate": None}}, "`part`, rate is None; it must be a number"),
        ({"count": 1, "part": {"rate": math.inf}}, "`part`, rate is inf; it must be a finite number"),
        ({"count": 1, "part": {"rat": 1.0}}, "`part`, rat is 1.0; it must be left out, since 'rat' is not known"),
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
        (["1", "2"], tuple[int, ...], (1, 2)), (["1", "y"], tuple[int, str], (1, "y")), ("None", int | None, None),
        ("3", int | None, 3), ("None", str, "None"), ("a/b", Path, Path("a/b")),
    ],
)  # fmt: skip
def test_a_text_is_read_as_the_annotation_says(text: str, hint: Any, value: Any) -> None:
    read = read_text(text, hint)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "hint", "said"),
    [
        ("1.0", int, "is '1.0'; it must be a whole number"), ("one", float, "is 'one'; it must be a number"),
        ("1" * 9999, int, "it must be a whole number"), ("no", bool, "is 'no'; it must be true or false"),
        ("", bool, "true or false"), ("c", Literal["a", "b"], "is 'c'; it must be one of a, b"),
        ("1", dict[str, int], "it must be given otherwise, not as one value"),
        (["1", "x"], tuple[int, ...], "is 'x'; it must"),
        (["1"], tuple[int, int], "it must be a list of 2 values"), ("x", int | None, "it must be a whole number"),
    ],
)  # fmt: skip
def test_a_text_of_another_kind_is_refused(text: str, hint: Any, said: str) -> None:
    with pytest.raises(MismatchError) as caught:
        read_text(text, hint)
    assert said in caught.value.sentence and len(caught.value.sentence) < 150


@dataclass(frozen=True)
class Options:
    """Options with everything that an option can have."""

    lr: float = 0.1
    on: bool = True
    kind: Annotated[str, Option(choices=lambda: ["red", "green"])] = "red"
    start: Annotated[int, Option(name="from")] = 0
    max_grad_norm: float = 1.0


def test_settings_are_loaded_with_a_sentence_for_every_mistake() -> None:
    problems: list[str] = []
    values = {"lr": "x", "on": "false", "kind": "gren", "start": 1.5, "clip": 1, "lrr": 1}
    assert load(Options, values, problems, "train") is None
    assert problems == [
        "train.lr is 'x'; it must be a number",
        "train.on is 'false'; it must be true or false",
        "train.kind is 'gren'; it must be one of red, green (did you mean green?)",
        "train.from is 1.5; it must be a whole number",
        "there is no option train.clip; did you mean train.max_grad_norm?",
        "there is no option train.lrr; did you mean train.lr?",
    ]
    assert [in_flags(problem) for problem in problems[-2:]] == [
        "there is no option --train.clip; did you mean --train.max-grad-norm?",
        "there is no option --train.lrr; did you mean --train.lr?",
    ]


def test_texts_and_a_base() -> None:
    problems: list[str] = []
    made = load(Options, {"lr": "3e-4", "on": "false"}, problems, texts=True, base=Options(start=7))
    assert made == Options(3e-4, False, "red", 7) and not problems
    assert load(Options, {"lr": 1}, problems) == Options(1.0) and not problems


def test_a_problem_is_written_in_the_spelling_of_files_and_of_flags() -> None:
    problem = Problem(f"{setting('train.batch_size')} is 0; raise it, or lower {setting('micro_batch')}")
    assert problem == "train.batch_size is 0; raise it, or lower micro_batch"
    assert in_flags(problem) == "--train.batch-size is 0; raise it, or lower --micro-batch"
    assert within("a", problem) == "a.train.batch_size is 0; raise it, or lower a.micro_batch"
    assert in_flags("plain train.lr") == within("a", "plain train.lr") == "plain train.lr"
    copied = pickle.loads(pickle.dumps(ConfigError([problem, "plain"])))
    assert copied.problems == [problem, "plain"] and in_flags(copied.problems[0]) == in_flags(problem)
    error = UserError(f"{setting('head_on')} is wrong")
    assert str(error) == "head_on is wrong" and in_flags(error.sentence) == "--head-on is wrong"


def test_a_schema_says_what_a_class_says() -> None:
    by_name = {field.name: field for field in fields_of(Whole)}
    assert by_name["count"].required and not by_name["sizes"].required and by_name["part"].default == Part()
    assert {field.flag for field in fields_of(Options)} == {"lr", "on", "kind", "from", "max-grad-norm"}
    assert expected(int | None) == "a whole number or null" and expected(tuple[int, int]) == "a list of 2 values"


def test_renamed_options_are_suggested_under_their_new_names() -> None:
    options = {*(field.name for kind in (TrainOptions, FinetuneOptions, TableOptions) for field in fields_of(kind))}
    options |= {"num_seeds", "na_prob_file"}
    for old, new in RENAMED.items():
        assert new in options and old not in options and nearest(old.replace("_", "-"), options) == new
