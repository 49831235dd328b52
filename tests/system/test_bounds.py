"""Every numeric option has a bound, nothing that is no finite number passes one, and the words fit the bound."""

import dataclasses
import importlib
import inspect
import math
import pkgutil
import re
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import blankfill.cli
from blankfill.cli.main import COMMANDS, main
from blankfill.config.recipe import load_recipe, recipe_names
from blankfill.corpus.options import PrepareConfig
from blankfill.errors import ConfigError
from blankfill.families.options import ModelOptions
from blankfill.generation.sampling import Sampling
from blankfill.objectives import OBJECTIVES
from blankfill.system.bounds import COUNT, MOST, SHARE, SOME, Bound, above, below, bounds_of, out_of_bounds
from blankfill.tasks.options import FinetuneOptions
from blankfill.training.options import DistilOptions, TrainOptions

SECTIONS = [PrepareConfig, ModelOptions, TrainOptions, DistilOptions, FinetuneOptions, *OBJECTIVES.values()]
CHECKED_LATER = {
    "GenerateArguments": Sampling,
    "ChatArguments": Sampling,
    "FinetuneArguments": FinetuneOptions,
    "Options": PrepareConfig,
}
"""Arguments that are handed on to options with bounds of their own."""


def numbers(hint: Any) -> set[type]:
    """The types of numbers in an annotation: int, float, or none of them."""
    if hint in (int, float):
        return {hint}
    return set().union(*(numbers(part) for part in typing.get_args(hint)))


def numeric(options: type) -> Iterator[tuple[str, set[type], bool]]:
    """(name, types, whether it is a list) of every field of some options that holds numbers."""
    hints = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        if kinds := numbers(hints[field.name]):
            yield field.name, kinds, typing.get_origin(hints[field.name]) is tuple


def arguments() -> list[type]:
    """The dataclasses that command lines are parsed into."""
    results = []
    for module in pkgutil.iter_modules(blankfill.cli.__path__):
        command = importlib.import_module(f"blankfill.cli.{module.name}")
        names = re.findall(r"parsed\((\w+), argv", inspect.getsource(command))
        results += [getattr(command, name) for name in names if hasattr(command, name)]
    return results


@pytest.mark.parametrize("options", SECTIONS, ids=lambda options: options.__name__)
def test_every_number_of_a_section_is_bounded(options: type) -> None:
    """By its problems, however they are found: a new option without a bound fails here."""
    for name, types, listed in numeric(options):
        for bad in [math.nan, math.inf, -math.inf] if float in types else [10**30, -(10**30)]:
            made = options(**{name: (bad,) if listed else bad})
            problems = made.problems()
            assert any(name in sentence or name.replace("_", "-") in sentence for sentence in problems), (
                name,
                bad,
                problems,
            )
    assert options().problems() == []


def unbounded(options: type) -> list[str]:
    """The numbers of a command line that nothing bounds."""
    known = {**bounds_of(options), **bounds_of(CHECKED_LATER.get(options.__name__, options))}
    return [name for name, _, _ in numeric(options) if name not in known]


@pytest.mark.parametrize("options", arguments(), ids=lambda options: options.__name__)
def test_every_number_of_a_command_line_is_bounded(options: type) -> None:
    assert unbounded(options) == []


@pytest.mark.parametrize("command", ["pretrain", "plan", "show"])
def test_every_number_of_a_command_with_a_recipe_is_bounded(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[type] = []

    def look(kind: type, argv: list[str], name: str, sections: object) -> None:
        made.append(kind)
        raise KeyboardInterrupt

    monkeypatch.setattr("blankfill.cli.recipe_arguments.parsed", look)
    assert main([command]) == 130
    assert {"seed", "recipe"} <= {field.name for field in dataclasses.fields(made[0])} and unbounded(made[0]) == []


def test_the_walk_sees_the_commands() -> None:
    names = {options.__name__ for options in arguments()}
    assert {"FillArguments", "GenerateArguments", "ChatArguments", "EmbedArguments", "PredictArguments",
            "EvaluateArguments", "FinetuneArguments", "Options", "Show", "Bench", "Doctor", "ImportArguments",
            "ExportArguments", "QuantizeArguments", "RecipesArguments", "TasksArguments", "HelpArguments",
            "CompletionArguments", "DemoArguments", "CompareArguments", "ServeArguments"} == names  # fmt: skip
    assert {name for name, _, _ in numeric(TrainOptions)} >= {"lr", "beta1", "eps", "steps"}
    assert {name: listed for name, _, listed in numeric(DistilOptions)}["layers"]


@pytest.mark.parametrize("name", recipe_names())
def test_the_shipped_recipes_are_within_their_bounds(name: str) -> None:
    assert load_recipe(name).problems() == []


BAD = [
    *(["pretrain", f"--train.{name}", value]
      for name in ("eps", "lr", "warmup", "constant-steps", "weight-decay", "z-loss")
      for value in ("nan", "inf", "-1")),
    *(["pretrain", f"--train.{name}", value] for name in ("beta1", "beta2", "momentum") for value in ("nan", "1", "2")),
    ["pretrain", "--train.eps", "0"], ["pretrain", "--train.min-lr", "nan"], ["pretrain", "--train.decay-steps", "-1"],
    ["pretrain", "--train.steps", "9" * 30], ["pretrain", "--train.threads", "100000"],
    ["pretrain", "--model.vocab-multiple", "0"], ["pretrain", "--model.dropout", "nan"],
    ["pretrain", "--model.hidden-size", "99999999999"], ["pretrain", "--model.num-layers", "9999999999"],
    ["pretrain", "--objective.mean-span", "inf"], ["pretrain", "--objective.length", "99999999999"],
    ["pretrain", "--corpus.validation", "nan"], ["pretrain", "--corpus.workers", "-1"], ["pretrain", "--seed", "-1"],
    ["pretrain", "--distil.temperature", "nan"], ["pretrain", "--replay-ratio", "nan"],
    ["plan", "--train.eps", "nan"], ["show", "--width", "-5"],
    *(["finetune", "--task", "sst2", "--data", "d", "--from", "m", "--out", "o", f"--{name}", value]
      for name in ("lr", "epochs", "warmup", "validation-split", "length-penalty", "mlm-weight", "max-grad-norm",
                   "mixing-temperature")
      for value in ("nan", "inf")),
    ["finetune", "--task", "sst2", "--data", "d", "--from", "m", "--out", "o", "--lora-rank", "-1"],
    ["finetune", "--task", "sst2", "--data", "d", "--from", "m", "--out", "o", "--num-seeds", "0"],
    *(["fill", "--model", "m", "a [MASK]", f"--{name}", value]
      for name, value in [("top", "0"), ("top", "-1"), ("length-penalty", "nan"), ("length-penalty", "inf")]),
    *(["generate", "--model", "m", f"--{name}", value]
      for name, value in [("temperature", "nan"), ("temperature", "1e-40"), ("temperature", "inf"), ("top-p", "nan"),
                          ("repetition-penalty", "nan"), ("repetition-penalty", "inf"), ("repetition-penalty", "0"),
                          ("max-new-tokens", "0"), ("num", "0"), ("top-k", "-1"), ("seed", "-1"), ("seed", "9" * 25)]),
    ["predict", "--model", "m", "f", "--length-penalty", "nan"], ["predict", "--model", "m", "f", "--n-best", "0"],
    ["predict", "--model", "m", "f", "--threads", "-1"],
    *(["evaluate", "--model", "m", "--task", "perplexity", "--data", "d", f"--{name}", "-1"]
      for name in ("window", "stride", "limit", "seed", "threads")),
    ["prepare", "x", "--out", "o", "--validation", "nan"], ["prepare", "x", "--out", "o", "--validation", "1"],
    ["prepare", "x", "--out", "o", "--min-chars", "-1"], ["prepare", "x", "--out", "o", "--vocab-size", "-1"],
    ["bench", "--seconds", "nan"], ["bench", "--seconds", "inf"], ["bench", "--dropout", "nan"],
    ["import", "x", "--out", "y", "--heads", "0"],
]  # fmt: skip


@pytest.mark.parametrize("argv", BAD, ids=lambda argv: "-".join([argv[0], *argv[-2:]])[:60])
def test_a_number_out_of_its_bound_is_one_sentence(
    argv: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    lines = capsys.readouterr().err.splitlines()
    name = argv[-2].removeprefix("--").replace("corpus.", "").replace("-", "_")
    assert len(lines) == 1 and " is " in lines[0] and "must" in lines[0], lines
    assert name.rpartition(".")[2] in lines[0].replace("-", "_"), lines
    assert list(tmp_path.iterdir()) == []


def test_all_wrong_numbers_are_told_at_once() -> None:
    problems = TrainOptions(lr=math.nan, beta1=1, steps=0).problems()
    assert problems == [
        "train.steps is 0; it must be at least 1", "train.lr is nan; it must be above 0, and a finite number",
        "train.beta1 is 1; it must be at least 0 and below 1",
    ]  # fmt: skip


def test_numbers_too_long_to_print_are_not() -> None:
    (problem,) = TrainOptions(steps=10**5000).problems()
    assert problem == f"train.steps is a number of more than 16 digits; it must be at most {MOST}"


def test_odd_values_that_are_meant_stay_allowed() -> None:
    assert Sampling(temperature=0, top_p=1).check() is None
    assert FinetuneOptions(freeze=-1).problems() == []
    with pytest.raises(ConfigError, match=r"temperature is 1e-40; it must be 0 or at least 0\.001"):
        Sampling(temperature=1e-40).check()


@pytest.mark.parametrize(
    ("bound", "value", "words"),
    [
        (COUNT, -1, "must not be negative"), (SOME, 0, "must be at least 1"), (above(0), 0.0, "must be above 0"),
        (SHARE, 2.0, "must be between 0 and 1"), (below(1), 1, "must be at least 0 and below 1"),
        (Bound(8, 2**20, also=(0,)), 3, "must be 0 or at least 8"), (Bound(8, 2**20), 2**21, "must be at most 1048576"),
        (COUNT, math.inf, "must be at most 2147483647, and a finite number"),
    ],
)  # fmt: skip
def test_the_words(bound: Bound, value: float, words: str) -> None:
    assert not bound.holds(value) and bound.words(value) == words


@given(st.floats(), st.floats(-10, 10), st.floats(-10, 10), st.booleans(), st.booleans())
def test_a_bound_agrees_with_the_mathematics(value: float, a: float, b: float, above: bool, below: bool) -> None:
    least, most = min(a, b), max(a, b)
    inside = least <= value <= most and not (above and value == least) and not (below and value == most)
    assert Bound(least, most, above, below).holds(value) == inside


def test_every_command_refuses_by_the_same_road() -> None:
    """Each parses with `parsed`, where the bounds are, by itself or as a command with a recipe."""
    for command in COMMANDS:
        module = importlib.import_module(f"blankfill.cli.{command}{'_' * (command == 'import')}")
        assert re.search(r"parsed\(\w+, argv|parse\(\w+, \"", inspect.getsource(module)), command


def test_what_has_no_bound_is_left_alone() -> None:
    @dataclasses.dataclass
    class Free:
        number: float = math.nan
        threads: int = -1

    assert out_of_bounds(Free()) == ["threads is -1; it must be 0 or between 1 and 1024"]
