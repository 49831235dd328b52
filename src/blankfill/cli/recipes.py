"""`blankfill recipes`: the shipped recipes, and all settings of one of them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from blankfill.cli.arguments import parsed
from blankfill.cli.result import Result
from blankfill.config.recipe import SECTIONS, Recipe, introduction, load_recipe, recipe_names, to_values
from blankfill.system.console import quoted, show, table
from blankfill.system.schema import Option

COLUMNS = 100
"""Columns of the comments in the settings of a recipe."""


@dataclass(frozen=True, kw_only=True)
class RecipesArguments:
    """List the shipped recipes, or show all settings of one.

    The settings are printed as YAML, with a comment above each. Saved to a file and changed, they are a recipe of your
    own: --recipe takes the path of the file.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = ("blankfill recipes", "blankfill recipes glm-nano")

    recipe: Annotated[str, Option(positional=True, suggestions=recipe_names, metavar="[NAME]")] = ""
    """Name of a shipped recipe, or a YAML file; without it, all shipped recipes are listed."""


def main(argv: Sequence[str]) -> Result:
    """Run the command."""
    args = parsed(RecipesArguments, argv, "recipes")
    if not args.recipe:
        rows = [summary(name, load_recipe(name)) for name in recipe_names()]
        return Result(values={"recipes": rows}, show=lambda: show_list(rows), is_output=True)
    recipe = load_recipe(args.recipe)
    row = summary(args.recipe, recipe)
    values = {**row, "settings": to_values(recipe)}
    return Result(values=values, show=lambda: show_recipe(row, recipe), is_output=True)


def summary(name: str, recipe: Recipe) -> dict[str, Any]:
    """Return what the list has about a recipe. parameters: approximate. tokens: of the rows of the whole run."""
    from blankfill.planning.approximate import approximate_parameters

    options = recipe.train
    rows, long_from = options.row_schedule.first(options.steps), options.row_schedule.first(options.long_from)
    config = recipe.model_config(recipe.corpus.vocab_size or 1)
    return {
        "name": name,
        "objective": recipe.objective.name,
        "family": recipe.model.family,
        "layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "parameters": approximate_parameters(config),
        "steps": options.steps,
        "length": recipe.objective.length,
        "tokens": long_from * options.phase1_length + (rows - long_from) * recipe.objective.length,
    }


def show_list(rows: Sequence[dict[str, Any]]) -> None:
    """Print a table of recipes."""
    cells = [
        (row["name"], row["objective"], row["family"], f"{row['layers']} × {row['hidden_size']}",
         rounded(row["parameters"]), row["length"], rounded(row["tokens"])) for row in rows
    ]  # fmt: skip
    headers = ("recipe", "objective", "family", "layers × width", "parameters", "row length", "tokens in the run")
    table("Recipes", cells, headers)
    show("A text with fewer tokens is read several times. Hours on this machine: blankfill plan TEXT --recipe NAME")
    show("All settings of a recipe: blankfill recipes NAME")


def rounded(count: float) -> str:
    """Return a count with two or three digits and a unit: 110M, 33B."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size * 0.9995:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


def show_recipe(row: Mapping[str, Any], recipe: Recipe) -> None:
    """Print commands that use a recipe, then its settings as YAML. row: its summary."""
    name = row["name"]
    show(f"# About {rounded(row['parameters'])} parameters; {rounded(row['tokens'])} tokens in the run.")
    show(f"# Hours on this machine: blankfill plan TEXT --recipe {quoted(name)}")
    show(f"# Train it:              blankfill pretrain TEXT --recipe {quoted(name)} --out RUN")
    for line in commented(name, recipe):
        show(line)


def commented(name: str, recipe: Recipe) -> Iterator[str]:
    """Yield the settings of a recipe as lines of YAML, each below a comment; `load_recipe` reads them back."""
    from blankfill.cli.help import TITLES, meaning
    from blankfill.system.schema import fields_of

    if text := introduction(name):
        yield from comment(text, "")
    values = to_values(recipe)
    yield from (line for key in ("name", "seed") for line in yaml_lines(key, values[key], ""))
    for section in SECTIONS:
        given = getattr(recipe, section)
        yield ""
        yield from comment(TITLES[section], "")
        yield f"{section}:"
        if section == "objective":
            yield from yaml_lines("name", values[section]["name"], "  ")
        for field in fields_of(type(given)):
            yield from comment(meaning(field, None), "  ")
            yield from yaml_lines(field.name, values[section][field.name], "  ")


def comment(text: str, indent: str) -> list[str]:
    """Return a text as lines of a comment."""
    return textwrap.wrap(
        text, COLUMNS, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def yaml_lines(key: str, value: Any, indent: str) -> list[str]:
    """Return a setting as lines of YAML."""
    import yaml

    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, allow_unicode=True, default_flow_style=True, width=10_000)
    return [f"{indent}{key}: {text.strip().removesuffix('...').strip()}"]
