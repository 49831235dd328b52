"""Command lines and their help: groups, examples, any width of a terminal, and one plain sentence for every mistake."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest

from blankfill.cli import main as cli
from blankfill.cli.arguments import arguments_of, needs_arguments, parsed
from blankfill.cli.common import split
from blankfill.cli.help import command_help, is_required, names_of
from blankfill.cli.recipe_arguments import RecipeArguments
from blankfill.config.recipe import SECTIONS, load_recipe
from blankfill.errors import ConfigError, in_flags
from blankfill.families.options import ModelOptions
from blankfill.system.schema import fields_of, groups_of
from blankfill.tasks.options import FinetuneOptions
from blankfill.training.options import DistilOptions, TrainOptions

WIDTHS = (41, 60, 71, 72, 80, 100, 140, 200)


def sections_of(kind: type, recipe: str = "glm-nano") -> dict[str, object]:
    """The sections of a recipe, for a command that takes one."""
    made = load_recipe(recipe)
    return {name: getattr(made, name) for name in SECTIONS} if issubclass(kind, RecipeArguments) else {}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_fits_the_terminal(command: str, width: int) -> None:
    kind = arguments_of(command)
    text = command_help(kind, command, sections_of(kind), width)
    assert max(map(len, text.splitlines())) <= width
    assert not [line for line in text.splitlines() if line != line.rstrip()]
    assert not set("╭│╰─┌└|") & set(text)
    words = " ".join(text.replace("\\\n", "\n").split())
    for field in fields_of(kind):
        if not field.option.hidden:
            assert " ".join(field.help.split()) in words and field.help
            assert field.option.positional or f"--{field.flag}" in words


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_no_word_of_the_help_is_cut_at_any_width(command: str) -> None:
    kind = arguments_of(command)
    sections = sections_of(kind)
    words = uncut(command_help(kind, command, sections, 110))
    for width in range(60, 201):
        text = command_help(kind, command, sections, width)
        assert uncut(text) == words, width
        assert max(map(len, text.splitlines())) <= min(width, 110), width
        assert not [line for line in text.splitlines() if line != line.rstrip()], width


def uncut(text: str) -> list[str]:
    """The words of a help text, without the backslashes that continue an example and the commas between two names."""
    words = " ".join(re.sub(r" \\\n", " ", text).split()).split(" ")
    return [word.rstrip(",") if word.startswith("--") else word for word in words]


@pytest.mark.parametrize("width", range(60, 201, 7))
def test_the_list_of_commands_fits_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert uncut(text) == uncut(cli.usage(110)) and max(map(len, text.splitlines())) <= width
    assert all(name in text and purpose in " ".join(text.split()) for name, purpose in cli.COMMANDS.items())


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_required_options_come_first_and_are_marked(command: str) -> None:
    kind = arguments_of(command)
    text = command_help(kind, command, sections_of(kind), 110)
    required = [field for field in fields_of(kind) if is_required(field)]
    assert ("\nRequired:\n" in text) == bool(required)
    if required:
        titles = re.findall(r"\n\n(\S.*):\n  ", text)
        assert titles[0] == "Required"
        block = text.split("\nRequired:\n", 1)[1].split("\n\n", 1)[0]
        assert len(re.findall(r"[(; ]required[),]", block)) == len(required)
        usage = text.split("\n\n", 1)[0]
        assert all((names_of(field)[0] in usage) or field.option.positional for field in required)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_a_command_without_its_arguments_prints_its_usage(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    kind = arguments_of(command)
    if not needs_arguments(kind):
        assert command in {"demo", "show", "plan", "bench", "doctor", "recipes", "tasks", "help"}
        return
    assert cli.main([command]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"usage: blankfill {command} ") and "Examples:\n  blankfill" in err
    assert len(err.splitlines()) < 25 and err.endswith(" --help` lists the options.\n")
    assert cli.main([command, "--json"]) == 2
    assert "needs arguments" in json.loads(capsys.readouterr().out)["error"]


def test_help_of_a_command_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["fill", "--help"], ["help", "fill"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(argv)
        assert not stop.value.code
    text = capsys.readouterr().out
    assert text[: len(text) // 2] == text[len(text) // 2 :]
    assert cli.main(["help"]) == 0
    assert capsys.readouterr().out == cli.usage() + "\n"


def test_an_argument_without_a_name_is_missing_by_its_placeholder(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["embed", "--model", "x"]) == 2
    assert capsys.readouterr().err == "blankfill: FILE is missing\n"


def test_finetune_needs_its_options_or_a_run_to_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["finetune", "--task", "sst2", "--data", "x"]) == 2
    assert capsys.readouterr().err.splitlines() == ["blankfill: --from is missing", "blankfill: --out is missing"]
    assert cli.main(["finetune", "--resume", str(tmp_path)]) == 2
    assert "is missing\n" not in capsys.readouterr().err


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_option_is_in_a_group_and_every_group_names_options(command: str) -> None:
    kind = arguments_of(command)
    named = [name for names in groups_of(kind).values() for name in names]
    shown = {field.name for field in fields_of(kind) if not (field.option.hidden or field.option.positional)}
    assert len(named) == len(set(named)) and set(named) <= {field.name for field in fields_of(kind)}
    assert set(named) == shown or not named


@pytest.mark.parametrize("kind", [TrainOptions, DistilOptions, ModelOptions, FinetuneOptions])
def test_every_option_says_what_it_does(kind: type) -> None:
    for field in fields_of(kind):
        assert field.help.endswith(".") and len(field.help) > 10, field.name
    named = [name for names in groups_of(kind).values() for name in names]
    assert not named or set(named) == {field.name for field in fields_of(kind)}


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_examples_are_command_lines(command: str, tmp_path: Path) -> None:
    kind = arguments_of(command)
    assert kind.EXAMPLES
    for line in kind.EXAMPLES:
        program, name, *argv = split(shlex.split(line))[1]
        assert (program, name) == ("blankfill", command)
        if command == "tokenizer":
            assert argv.pop(0) == "show"
        recipe = argv[argv.index("--recipe") + 1] if "--recipe" in argv else "glm-nano"
        assert parsed(kind, argv, command, sections_of(kind, recipe)) is not None


def test_an_example_can_be_copied_from_any_width() -> None:
    kind = arguments_of("finetune")
    for width in WIDTHS:
        text = command_help(kind, "finetune", {}, width).partition("Examples:\n")[2]
        lines = [" ".join(line.split()) for line in re.sub(r" \\\n", " ", text).splitlines()]
        assert lines == list(kind.EXAMPLES)


def test_groups_of_finetune(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["finetune", "--help"])
    assert not stop.value.code
    text = capsys.readouterr().out
    titles = re.findall(r"^(\S.*):$", text, flags=re.MULTILINE)
    assert titles == [
        "Required", "Data", "Model", "Run", "Training", "Questions", "Cloze", "Generation", "Dialogues",
        "Several tasks at once", "Machine", "Options of every command", "Examples",
    ]  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """Made for these tests."""

    size: int
    shapes: tuple[str, ...] = ()
    rate: float = 0.0
    fast: bool = True
    name: str | None = None


def problems(*argv: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parsed(Arguments, argv, "made")
    return [in_flags(problem) for problem in caught.value.problems]


def test_how_values_are_written() -> None:
    assert parsed(Arguments, ["--size=3", "--shapes", "a", "b", "--rate", "-1e-3"], "made") == Arguments(
        size=3, shapes=("a", "b"), rate=-1e-3
    )
    assert parsed(Arguments, ["--size", "-2", "--no-fast", "--name", "None"], "made") == Arguments(size=-2, fast=False)
    assert parsed(Arguments, ["--size", "1", "--fast=false", "--size", "4", "--name="], "made") == Arguments(
        size=4, fast=False, name=""
    )


def test_every_mistake_is_one_sentence() -> None:
    assert problems("--fast") == ["--size is missing"]
    assert problems("--sise", "3", "--rate") == [
        "there is no option --sise; did you mean --size?", "--rate has no value; give a number behind it",
        "--size is missing",
    ]  # fmt: skip
    assert problems("--size", "x", "extra") == [
        "nothing is expected at 'extra'; leave it out", "--size is 'x'; it must be a whole number",
    ]  # fmt: skip
    assert problems("--size", "1", "--no-fast=1", "-q") == [
        "--no-fast takes no value; leave out =1", "there is no option -q; `blankfill made --help` lists them",
        "--fast is '1'; it must be true or false",
    ]  # fmt: skip
    assert problems("--size", "1", "--zzzzz", "1") == ["there is no option --zzzzz; `blankfill made --help` lists them"]


def test_mistakes_of_a_recipe_and_of_the_command_come_together(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["pretrain", "--train.word-lr", "3", "--model.family", "brt", "--seed", "x", "--train.schedule", "wavy"]
    assert cli.main(argv) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "blankfill: there is no option --train.word-lr; did you mean --train.embedding-lr-multiplier?"
    assert lines[1] == "blankfill: --seed is 'x'; it must be a whole number"
    assert lines[2].startswith("blankfill: --model.family is 'brt'; it must be one of bert, ")
    assert lines[2].endswith("(did you mean bert?)")
    assert lines[3].startswith("blankfill: --train.schedule is 'wavy'; it must be one of ") and len(lines) == 4


def test_a_file_keeps_its_own_spelling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: bert-nano\ntrain:\n  clip: 1.0\n  steps: many\n", encoding="utf-8")
    assert cli.main(["pretrain", "--recipe", str(path)]) == 2
    assert sorted(capsys.readouterr().err.splitlines()) == [
        f"blankfill: {path}: there is no option train.clip; did you mean train.max_grad_norm?",
        f"blankfill: {path}: train.steps is 'many'; it must be a whole number",
    ]


def test_what_options_say_together_is_said_in_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(["pretrain", "--recipe", "bert-nano", "--model.positions", "64", "--train.phase1-length", "999"]) == 2
    )
    text = capsys.readouterr().err
    assert "--objective.length needs 128 positions but --model.positions is 64" in text
    assert "--train.phase1-length is 999; it must not be above --objective.length" in text


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("pretrain --lr 1e-4", "--lr; did you mean --train.lr?"),
        ("pretrain --clip 1", "--clip; did you mean --train.max-grad-norm?"),
        ("pretrain --workers 1", "--workers; did you mean --corpus.workers or --train.workers?"),
        ("pretrain --train.hidden-size 64", "--train.hidden-size; did you mean --model.hidden-size?"),
        ("pretrain --trian.lr 1e-4", "--trian.lr; did you mean --train.lr?"),
        ("pretrain --train.restarts 2", "--train.restarts; `blankfill pretrain --help` lists them"),
        ("finetune --train.lr 1e-4", "--train.lr; did you mean --lr?"),
        ("finetune --restarts 2", "--restarts; did you mean --num-seeds?"),
    ],
)
def test_an_option_of_another_section_is_suggested_by_its_name(
    command: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(command.split()) == 2
    assert f"there is no option {hint}\n" in capsys.readouterr().err
