"""Grids: every value is read and checked as the option itself is, before the first run begins."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import pytest

from blankfill.cli.main import main
from blankfill.errors import ConfigError, in_flags
from blankfill.finetuning.grid import combinations
from blankfill.tasks.options import FinetuneOptions

PLAIN = FinetuneOptions()
CLOZE = FinetuneOptions(method="cloze")


def values_of(hint: Any) -> list[tuple[str, Any]]:
    """Some values of an option's type, as they are written and as they are meant."""
    if typing.get_origin(hint) is typing.Literal:
        return [(str(get_arg), get_arg) for get_arg in typing.get_args(hint)]
    if hint is bool:
        return [("false", False), ("true", True)]
    return {int: [("1", 1), ("2", 2)], float: [("0.5", 0.5), ("0.25", 0.25)], str: [("0", "0"), ("1", "1")]}[hint]


HINTS = {
    name: hint for name, hint in typing.get_type_hints(FinetuneOptions).items()
    if name in {field.name for field in dataclasses.fields(FinetuneOptions)} and name not in ("seed", "test_split")
}  # fmt: skip


@pytest.mark.parametrize("name", HINTS)
def test_a_grid_gives_what_the_option_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option, values of its own type; whether they go with other options is another test's business."""
    monkeypatch.setattr(FinetuneOptions, "problems", lambda self: [])
    written, meant = zip(*values_of(HINTS[name]), strict=True)
    settings = combinations(CLOZE, [f"{name}={','.join(written)}"], 1)
    assert [getattr(options, name) for _, options in settings] == list(meant)
    assert [type(getattr(options, name)) for _, options in settings] == [type(value) for value in meant]


def test_false_is_false_and_named_so() -> None:
    assert [(name, options.from_scratch) for name, options in combinations(PLAIN, ["from_scratch=false,True"], 1)] == [
        ("from_scratch-false_seed-0", False), ("from_scratch-true_seed-0", True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        (["from_scratch=no"], "--grid from_scratch is 'no'; it must be true or false"),
        (["method=hed"], "--grid method is 'hed'; it must be one of head, cloze, text"),
        (["epochs=two"], "--grid epochs is 'two'; it must be a number"),
        (["batch_size=16,1.5"], "--grid batch_size is '1.5'; it must be a whole number"),
        (["batch_size=0"], "--grid, batch_size-0: --batch-size is 0; it must be at least 1"),
        (["lr=nan"], "--grid, lr-nan: --lr is nan; it must not be negative, and a finite number"),
        (["lora_rank=0,4", "freeze=2"], "--grid, lora_rank-4_freeze-2: --lora-rank freezes"),
        (["lr=1e-4,0.0001"], "--grid: two settings would be in the folder lr-0.0001_seed-0; give each value once"),
        (["lr=1e-4", "lr=1e-5"], "--grid lr is given twice; put all its values into one, as lr=value,value"),
        (["BOUNDS=1"], "--grid BOUNDS=1: give name=value,value; the names are lr, "),
        (["seed=1"], "--grid seed=1: give name=value,value"), (["lr"], "--grid lr=: give name=value,value"),
        (["method=cloze", "pattern=0,all"], "--pattern all is a run for each pattern"),
    ],
)  # fmt: skip
def test_what_no_run_could_be_trained_with_is_refused(grid: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        combinations(PLAIN, grid, 1)
    assert said in "\n".join(map(in_flags, caught.value.problems))


def test_seeds_are_checked_too() -> None:
    with pytest.raises(ConfigError, match="seed is 4294967296"):
        combinations(FinetuneOptions(seed=2**32 - 1), [], 2)
    assert [name for name, _ in combinations(PLAIN, [], 2)] == ["seed-0", "seed-1"]


def test_all_problems_are_told_once_and_nothing_is_written(tmp_path, capsys) -> None:
    command = ["finetune", "--task", "sst2", "--data", str(tmp_path), "--from", str(tmp_path), "--out"]
    assert main([*command, str(tmp_path / "out"), "--grid", "from_scratch=no", "epochs=x", "method=hed"]) == 2
    err = capsys.readouterr().err
    assert all(text in err for text in ("true or false", "'x'; it must be a number", "'hed'"))
    assert main([*command, str(tmp_path / "out"), "--grid", "lr=1e-4,-1", "--num-seeds", "3"]) == 2
    assert capsys.readouterr().err.count("--lr is -1.0") == 1
    assert list(tmp_path.iterdir()) == []
