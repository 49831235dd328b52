"""`blankfill show`: a training example, as text, as a page to explore and as a picture.

The example is a row of a recipe's run, by its number, or a sentence of the user, hidden as one objective does it or as
all of them do.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from blankfill.cli.recipe_arguments import RecipeArguments, parse, recipe_of, value_of
from blankfill.cli.result import Result
from blankfill.config.recipe import Recipe, load_recipe, recipe_names
from blankfill.errors import ConfigError, Problem, UserError, setting
from blankfill.system import console
from blankfill.system.schema import Option

if TYPE_CHECKING:
    from blankfill.corpus.tokenizer import Tokenizer
    from blankfill.pretraining.show import ShownRow

ALL = "all"
"""Value of --recipe that stands for every objective."""
SUFFIXES = {"png": ".png", "html": ".html"}
WIDTH = 120
"""Columns of the output where the terminal does not say."""


@dataclass(frozen=True, kw_only=True)
class ShowArguments(RecipeArguments):
    """Show a training example.

    Prints row number --example of a run: its tokens, their positions, the targets, and the attention. A run with the
    same recipe, seed and text trains on exactly this row. With --text it is a sentence of yours, hidden as the recipe
    hides it; --all shows the same sentence under every objective. Every option of the recipe can be changed by its
    dotted name, such as --objective.length 48 or --objective.mask-ratio 0.3.
    """

    GROUPS: ClassVar[Mapping[str, str]] = {
        "Row": "recipe example seed",
        "Your own sentence": "text all tokenizer model",
        "Output": "html png width font out",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        'blankfill show --text "The river was low that summer." --all --html objectives.html',
        'blankfill show --text "The river was low that summer." --recipe glm-nano',
        "blankfill show texts/ --recipe glm-nano --example 3 --png row.png",
        "blankfill show --recipe bert-nano --objective.length 32",
    )

    example: int = 0
    """Number of the row in the run, counted from 0; with --text, the number of the draw of blanks."""
    text: str = ""
    """Sentence to show instead of a row of the corpus."""
    all: bool = False
    """Show the sentence under every objective; the same as --recipe all."""
    tokenizer: Annotated[str, Option(metavar="PATH")] = ""
    """Tokenizer for the sentence: a run, a model, a prepared folder or a tokenizer file. Without it, the words of the
    sentence are its tokens."""
    model: Path | None = None
    """Model whose objective and tokenizer are used for the sentence; with --recipe, its tokenizer alone."""
    html: Path | None = None
    """HTML file for the example: tokens to point at, which show what they see and what sees them."""
    png: Path | None = None
    """PNG file to draw the row to."""
    out: Path | None = None
    """Folder for the prepared text, where the text is not prepared yet; the next call reads it from there."""
    width: int = 0
    """Width of the text in characters; 0: that of the terminal."""
    font: Path | None = None
    """Font file for the picture, for a language that no font of the system covers."""


def main(argv: Sequence[str]) -> Result:
    """Run the command. Raises UserError."""
    args, recipe, dotted = read(argv)
    for name, suffix in SUFFIXES.items():
        path = getattr(args, name)
        if path is not None and path.suffix.lower() != suffix:
            kind = "PNG files are drawn" if name == "png" else "HTML files are written"
            raise UserError(f"{setting(name, path)} does not end in {suffix}; only {kind}")
    if not args.text.strip():
        return one(args, row_of_run(args, recipe))
    if args.paths:
        raise UserError(f"{setting('text')} is shown instead of a text from files; leave out {args.paths[0]}")
    tokenizer, objective = vocabulary_of(args)
    if args.all:
        return several(args, recipe, tokenizer, "objective.length" in dotted)
    if objective is not None and value_of(argv, "--recipe") is None:
        if changed := [path for path in dotted if path.startswith("objective.")]:
            raise UserError(
                f"{setting(changed[0])} changes a recipe, and the objective is that of {setting('model', args.model)}; "
                f"name a recipe with {setting('recipe')}, or leave it out"
            )
        recipe = dataclasses.replace(recipe, objective=objective)
        return one(args, row_of_text(args, recipe, tokenizer, str(args.model.name if args.model else ""), ""))
    return one(args, row_of_text(args, recipe, tokenizer, recipe.name, recipe.model.family))


def read(argv: Sequence[str]) -> tuple[ShowArguments, Recipe, list[str]]:
    """Return the arguments, the recipe, and the dotted names of options of the recipe in the command line."""
    words = list(argv)
    everything = recipe_of(words) == ALL
    if everything:
        at = next(k for k, word in enumerate(words) if word.partition("=")[0] == "--recipe")
        words[at : at + (1 if "=" in words[at] else 2)] = ["--all"]
    args, recipe = parse(ShowArguments, "show", words)
    names = (word.partition("=")[0].removeprefix("--") for word in words if word.startswith("--"))
    dotted = [name.replace("-", "_") for name in names if "." in name]
    needs_text = {"all": args.all, "tokenizer": args.tokenizer, "model": args.model}
    if not args.text.strip() and (given := [name for name, value in needs_text.items() if value]):
        raise UserError(f"{setting(given[0])} is for a sentence of yours; give it with {setting('text', 'SENTENCE')}")
    if args.all:
        if other := [name for name in dotted if name != "objective.length"]:
            raise UserError(
                f"{setting(other[0])} belongs to one recipe, and {setting('all')} shows every objective; only "
                f"{setting('objective.length')} can be changed for all of them"
            )
        if args.png is not None:
            raise UserError(f"{setting('png')} draws one example; for every objective write a page: {setting('html')}")
        if not everything and value_of(words, "--recipe") is not None:
            raise UserError(f"{setting('recipe', args.recipe)} is one recipe, and {setting('all')} shows every one")
    return args, recipe, dotted


def vocabulary_of(args: ShowArguments) -> tuple[Tokenizer | None, Any]:
    """Return the tokenizer for the sentence and the objective of the model; None where there is none."""
    from blankfill.corpus.tokenizer import Tokenizer

    objective = tokenizer = None
    if args.model is not None:
        from blankfill.checkpoint.load import load_model

        loaded = load_model(args.model)
        objective, tokenizer = loaded.objective, loaded.tokenizer
    if args.tokenizer:
        tokenizer = Tokenizer.load(args.tokenizer)
    if tokenizer is None:
        console.say(
            "no tokenizer is given, so the words of the sentence are its tokens, and in scripts without spaces its "
            f"characters; a model's own tokens: {setting('model')} or {setting('tokenizer')}"
        )
    return tokenizer, objective


def row_of_run(args: ShowArguments, recipe: Recipe) -> ShownRow:
    """Return a row of the run of a recipe."""
    from blankfill.pretraining import show

    return show.show(recipe, args.paths, args.example, args.out)


def row_of_text(args: ShowArguments, recipe: Recipe, tokenizer: Tokenizer | None, name: str, family: str) -> ShownRow:
    """Return the sentence as an example of a recipe."""
    from blankfill.pretraining.show_text import show_text

    return show_text(
        args.text, recipe.objective, tokenizer, seed=recipe.seed, example=args.example, name=name, family=family
    )


def every_objective(recipe: Recipe, with_length: bool) -> list[Recipe]:
    """Return a recipe for each objective: its small shipped one, else its defaults. with_length: whether the length of
    `recipe` is that of all of them."""
    from blankfill.objectives import OBJECTIVES

    shipped, recipes = recipe_names(), []
    for name, kind in OBJECTIVES.items():
        of_name = load_recipe(f"{name}-nano") if f"{name}-nano" in shipped else None
        objective = of_name.objective if of_name else kind()
        if with_length:
            objective = dataclasses.replace(objective, length=recipe.objective.length)
            if problems := objective.problems():
                raise ConfigError([Problem(f"{name}: {problem}") for problem in problems])
        model = of_name.model if of_name else recipe.model
        recipes.append(dataclasses.replace(recipe, name=name, objective=objective, model=model))
    return recipes


def terminal_width(args: ShowArguments) -> int:
    """Return the width of the output in columns."""
    return args.width or shutil.get_terminal_size((WIDTH, 24)).columns


def one(args: ShowArguments, row: ShownRow) -> Result:
    """Write the files of an example and return it."""
    if args.png is not None and (lacking := row.png(args.png, args.font)):
        console.say(
            f"no font here has {lacking[:20]}{'…' if len(lacking) > 20 else ''}, so those tokens are drawn as their "
            "numbers; install a font for the language (for Chinese e.g. Noto Sans CJK) or name one with "
            f"{setting('font')}"
        )
    if args.html is not None:
        row.html(args.html)
    for note in row.notes:
        console.say(note)

    def show_row() -> None:
        console.show(row.heading)
        if not row.rows:
            console.show(f"{row.explanation}\n\n{row.strip(terminal_width(args))}")
        console.show(row.text(terminal_width(args), plain=not blocks_fit()))
        for path in filter(None, (args.png, args.html)):
            console.show(f"drawn to {path}" if path == args.png else f"the page, for a browser: {path}")

    return Result(values={**row.values(), "png": args.png, "html": args.html}, show=show_row, is_output=True)


def several(args: ShowArguments, recipe: Recipe, tokenizer: Tokenizer | None, with_length: bool) -> Result:
    """Return the sentence as an example of every objective."""
    from blankfill.pretraining.show import write_html

    rows = [
        row_of_text(args, each, tokenizer, each.name, each.model.family)
        for each in every_objective(recipe, with_length)
    ]
    if args.html is not None:
        write_html(rows, args.html, "One sentence, every objective")

    def show_rows() -> None:
        for row in rows:
            console.show(f"{row.objective}: {row.explanation}")
            for note in row.notes:
                console.show(f"({console.worded(note)})")
            console.show(row.strip(terminal_width(args)))
        if args.html is not None:
            console.show(f"the page, for a browser: {args.html}")
        else:
            console.show(f"who sees whom, in a browser: add {setting('html', 'FILE.html')}")

    values = [{"objective": row.objective, "explanation": row.explanation, **row.values()} for row in rows]
    return Result(values={"text": args.text, "rows": values, "html": args.html}, show=show_rows, is_output=True)


def blocks_fit() -> bool:
    """Return whether standard output can show block characters."""
    try:
        "·█▌".encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
