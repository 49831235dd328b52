"""How commands take a recipe and its dotted overrides: `--recipe NAME --train.lr 1e-4 --objective.length 256`.

The recipe decides which options there are (an objective has its own), so it is read first, and what it holds becomes
the defaults of the command line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from blankfill.cli.arguments import parsed
from blankfill.config.recipe import Recipe, load_recipe, recipe_names
from blankfill.system.bounds import MOST, Bound, at_least, below

DEFAULT = "glm-nano"
SECTIONS = ("corpus", "objective", "model", "train", "distil")

BOUNDS = {"replay_ratio": below(1), "width": at_least(0, 100_000), "example": Bound(-MOST)}
"""Of the commands' own options; `show` itself holds --example against the rows of the run."""

Paths = tuple[str, ...]


def recipe_of(argv: Sequence[str]) -> str:
    """The value of `--recipe` in a command line, or the default."""
    for k, arg in enumerate(argv):
        if arg == "--recipe" and k + 1 < len(argv):
            return argv[k + 1]
        if arg.startswith("--recipe="):
            return arg.removeprefix("--recipe=")
    return DEFAULT


def arguments(name: str, described: str, recipe: Recipe, extra: Sequence[tuple[str, Any, Any, str]]) -> type[Any]:
    """A dataclass of a command's arguments: its own, and every option of a recipe with the recipe's values as defaults.

    extra: (name, type, default, help) of the command's own.
    """
    import tyro

    known = ", ".join(recipe_names())
    own = [
        ("paths", tyro.conf.Positional[Paths], (), "Text (files, folders, - for standard input) or one folder made by "
         "`blankfill prepare`; none: the documentation inside this Python installation."),
        ("recipe", str, DEFAULT, f"A shipped recipe ({known}) or the path of a YAML file."),
        *extra,
        ("seed", int, recipe.seed, "Seed of the weights, of the order of the text and of every draw."),
    ]  # fmt: skip
    specified: list[tuple[str, Any, Any]] = [
        (field, Annotated[kind, tyro.conf.arg(help=help_text)], dataclasses.field(default=default))
        for field, kind, default, help_text in own
    ]
    for section in SECTIONS:
        value = getattr(recipe, section)
        specified.append((section, type(value), dataclasses.field(default=value)))
    made = dataclasses.make_dataclass(name, specified, frozen=True, namespace={"BOUNDS": BOUNDS})
    made.__doc__ = described
    return made


def parse(
    name: str, described: str, argv: Sequence[str], extra: Sequence[tuple[str, Any, Any, str]]
) -> tuple[Any, Recipe]:
    """Parse a command line; returns its arguments and the recipe with the overrides in it, checked."""
    recipe = load_recipe(recipe_of(argv))
    made = arguments(name, described, recipe, extra)
    args: Any = parsed(made, argv, name)
    changed = {section: getattr(args, section) for section in SECTIONS}
    return args, dataclasses.replace(recipe, seed=args.seed, **changed).check()


THREADS = ("threads", int | None, None, "The same as --train.threads.")


def with_threads(recipe: Recipe, threads: int | None) -> Recipe:
    """The recipe with the threads of `--threads`, where it was given."""
    if threads is None:
        return recipe
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, threads=threads)).check()


OUT = ("out", Path, Path("runs/blankfill"), "The run folder to make.")
