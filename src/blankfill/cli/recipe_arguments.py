"""Commands with a recipe and dotted overrides: `--recipe NAME --train.lr 1e-4 --objective.length 256`.

The recipe is read first, since it decides which options exist (an objective has its own); its values become the
defaults of the command line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

from blankfill.cli.arguments import parsed, texts_of
from blankfill.config.recipe import SECTIONS, Recipe, load_recipe, override, recipe_names
from blankfill.errors import ConfigError
from blankfill.system.bounds import MOST, Bound, at_least, below
from blankfill.system.schema import Option

DEFAULT = "glm-nano"


@dataclass(frozen=True, kw_only=True)
class RecipeArguments:
    """Arguments of every command with a recipe, beside the options of the recipe itself."""

    BOUNDS: ClassVar[Mapping[str, Bound]] = {
        "replay_ratio": below(1), "width": at_least(0, 100_000), "example": Bound(-MOST),
    }  # fmt: skip
    """Bounds of the commands' own options; `show` itself compares --example with the rows of the run."""

    paths: Annotated[tuple[str, ...], Option(positional=True, metavar="TEXT")] = ()
    """Files or folders of text, - for standard input, or one folder made by `blankfill prepare`; without any, the
    documentation inside this Python installation."""
    recipe: Annotated[str, Option(metavar="RECIPE", suggestions=recipe_names)] = DEFAULT
    """Name of a shipped recipe, such as bert-nano, glm-base or gpt2 (`blankfill recipes` lists them), or a YAML
    file."""
    seed: int | None = None
    """Seed of the initial weights, of the order of the text and of every random choice; without it, the recipe's."""


@dataclass(frozen=True, kw_only=True)
class RunArguments(RecipeArguments):
    """Arguments of commands about a run."""

    out: Path = Path("runs/blankfill")
    """Run folder to create."""
    teacher: Path | None = None
    """Model to distil from with --distil.*: a run, a checkpoint, an imported model or a transformers folder."""
    threads: int | None = None
    """Number of CPU threads; the same as --train.threads."""


A = TypeVar("A", bound=RecipeArguments)


def recipe_of(argv: Sequence[str]) -> str:
    """Return the value of `--recipe` in a command line, or the default."""
    return value_of(argv, "--recipe") or DEFAULT


def value_of(argv: Sequence[str], option: str) -> str | None:
    """Return the value of an option in a command line; None where it is absent."""
    for k, arg in enumerate(argv):
        if arg == option and k + 1 < len(argv):
            return argv[k + 1]
        if arg.startswith(f"{option}="):
            return arg.removeprefix(f"{option}=")
    return None


def parse(kind: type[A], command: str, argv: Sequence[str], recipe: Recipe | None = None) -> tuple[A, Recipe]:
    """Parse a command line; returns its arguments and the recipe with the overrides in it, checked.

    recipe: the one without `--recipe`, where it is not the default.
    """
    recipe = recipe or load_recipe(recipe_of(argv))
    sections = {name: getattr(recipe, name) for name in SECTIONS}
    problems: list[str] = []
    args = None
    try:
        args = parsed(kind, argv, command, sections)
    except ConfigError as error:
        problems += error.problems
    texts, _ = texts_of(kind, argv, command, sections)
    try:
        recipe = override(recipe, {path: text for path, text in texts.items() if "." in path})
    except ConfigError as error:
        problems += error.problems
    if args is None or problems:
        raise ConfigError(problems)
    if args.seed is not None:
        recipe = dataclasses.replace(recipe, seed=args.seed)
    threads = getattr(args, "threads", None)
    if threads is not None:
        recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, threads=threads))
    return args, recipe.check()
