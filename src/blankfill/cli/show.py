"""`blankfill show`: a training example, as text, as a page to explore and as a picture.

The example is a row of a recipe's run, by its number, a sentence of the user, hidden as one objective does it or as
all of them do, or a dialogue of a file as `finetune --task chat` learns it.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from blankfill.cli.recipe_arguments import RecipeArguments, parse, recipe_of, value_of
from blankfill.cli.result import Result
from blankfill.config.recipe import Recipe, load_recipe, recipe_names
from blankfill.errors import ConfigError, Problem, UserError, setting
from blankfill.system import console
from blankfill.system.schema import Option

if TYPE_CHECKING:
    from blankfill.chatting.templates import ChatTemplate
    from blankfill.checkpoint.load import Loaded
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
    hides it; --all shows the same sentence under every objective. With --chat it is a dialogue of a file, with its
    rounds and the answers that a model learns. Every option of the recipe can be changed by its dotted name, such as
    --objective.length 48 or --objective.mask-ratio 0.3.
    """

    GROUPS: ClassVar[Mapping[str, str]] = {
        "Row": "recipe example seed",
        "Your own sentence": "text all tokenizer model",
        "A dialogue": "chat template",
        "Output": "html png width font out",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        'blankfill show --text "The river was low that summer." --all --html objectives.html',
        'blankfill show --text "The river was low that summer." --recipe glm-nano',
        "blankfill show texts/ --recipe glm-nano --example 3 --png row.png",
        "blankfill show --recipe bert-nano --objective.length 32",
        "blankfill show --chat rounds.jsonl --recipe glm-nano --template chatglm --html rounds.html",
    )

    example: int = 0
    """Number of the row in the run, counted from 0; with --text, the number of the draw of blanks, with --chat that of
    the dialogue in its file."""
    text: str = ""
    """Sentence to show instead of a row of the corpus."""
    all: bool = False
    """Show the sentence under every objective; the same as --recipe all."""
    tokenizer: Annotated[str, Option(metavar="PATH")] = ""
    """Tokenizer for the sentence or the dialogue: a run, a model, a prepared folder or a tokenizer file. Without it,
    the words of the text are its tokens."""
    model: Path | None = None
    """Model whose objective and tokenizer are used for the sentence or the dialogue; with --recipe, its tokenizer
    alone."""
    chat: Path | None = None
    """File of dialogues, in any form that finetune reads; shows dialogue number --example as the rows that a model
    learns to chat from."""
    template: str = ""
    """Chat template of the dialogue: a built-in name or a Jinja file, as for finetune. Without it, that of the model,
    or plain."""
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
    if not args.text.strip() and args.chat is None:
        return one(args, row_of_run(args, recipe))
    if args.paths:
        shown = setting("text") if args.chat is None else setting("chat")
        raise UserError(f"{shown} is shown instead of a text from files; leave out {args.paths[0]}")
    tokenizer, loaded = vocabulary_of(args)
    if args.all:
        return several(args, recipe, tokenizer, "objective.length" in dotted)
    of_model = loaded if value_of(argv, "--recipe") is None else None
    changed = [path for path in dotted if path.startswith("objective.")]
    if of_model is not None and changed:
        raise UserError(
            f"{setting(changed[0])} changes a recipe, and the objective is that of {setting('model', args.model)}; "
            f"name a recipe with {setting('recipe')}, or leave it out"
        )
    if args.chat is not None:
        return one(args, row_of_dialogue(args, recipe, tokenizer, of_model, template_of(args, loaded)))
    return one(args, row_of_text(args, recipe, tokenizer, of_model))


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
    has_text, has_chat = bool(args.text.strip()), args.chat is not None
    if has_text and has_chat:
        raise UserError(f"{setting('text')} and {setting('chat')} are two things to show; give one of them")
    if args.template and not has_chat:
        raise UserError(f"{setting('template')} is for a dialogue; give its file with {setting('chat', 'FILE')}")
    if args.all and has_chat:
        raise UserError(
            f"{setting('all')} shows a sentence under every objective; for a dialogue name a recipe with "
            f"{setting('recipe')}, or a model with {setting('model')}"
        )
    needs_text = {"all": args.all, "tokenizer": args.tokenizer, "model": args.model}
    if not has_text and not has_chat and (given := [name for name, value in needs_text.items() if value]):
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


def vocabulary_of(args: ShowArguments) -> tuple[Tokenizer | None, Loaded | None]:
    """Return the tokenizer for the sentence or the dialogue, and the model; None where there is none."""
    from blankfill.corpus.tokenizer import Tokenizer

    loaded = tokenizer = None
    if args.model is not None:
        from blankfill.checkpoint.load import load_model

        loaded = load_model(args.model)
        tokenizer = loaded.tokenizer
    if args.tokenizer:
        tokenizer = Tokenizer.load(args.tokenizer)
    if tokenizer is None:
        console.say(
            f"no tokenizer is given, so the words of the {'sentence' if args.chat is None else 'dialogue'} are its "
            "tokens, and in scripts without spaces its characters; a model's own tokens: "
            f"{setting('model')} or {setting('tokenizer')}"
        )
    return tokenizer, loaded


def template_of(args: ShowArguments, loaded: Loaded | None) -> ChatTemplate:
    """Return the chat template that is named, or else that of the model, or else the plain one. Raises UserError."""
    from blankfill.chatting import models
    from blankfill.chatting.templates import DEFAULT, template_named

    if loaded is None:
        return template_named(args.template or DEFAULT)
    return models.template_of(loaded.path, args.template or None, loaded.objective.chat_template)


def row_of_run(args: ShowArguments, recipe: Recipe) -> ShownRow:
    """Return a row of the run of a recipe."""
    from blankfill.pretraining import show

    return show.show(recipe, args.paths, args.example, args.out)


def row_of_text(args: ShowArguments, recipe: Recipe, tokenizer: Tokenizer | None, loaded: Loaded | None) -> ShownRow:
    """Return the sentence as an example of a recipe, or of a model."""
    from blankfill.pretraining.show_text import show_text

    if loaded is None:
        return show_text(
            args.text, recipe.objective, tokenizer, seed=recipe.seed, example=args.example, name=recipe.name,
            family=recipe.model.family,
        )  # fmt: skip
    return show_text(
        args.text, loaded.objective, tokenizer, seed=recipe.seed, example=args.example, name=loaded.path.name,
        scheme=loaded.model.config.position_scheme,
    )  # fmt: skip


def row_of_dialogue(
    args: ShowArguments, recipe: Recipe, tokenizer: Tokenizer | None, loaded: Loaded | None, template: ChatTemplate
) -> ShownRow:
    """Return the rows of a dialogue for the objective of a recipe, or of a model. Raises UserError."""
    from blankfill.pretraining.show_chat import show_chat
    from blankfill.tasks.datasets.chat import chats, read_dialogues

    assert args.chat is not None
    split = read_dialogues(args.chat)
    for problem in split.problems:
        console.say(str(problem))
    dialogues = chats(split.items)
    if not 0 <= args.example < len(dialogues):
        raise UserError(
            f"{setting('example')} is {args.example}; {args.chat} has the dialogues 0 to {len(dialogues) - 1:,}"
        )
    title = f"{args.chat.name}, dialogue {args.example}, template {template.name or Path(template.where).name}"
    if loaded is None:
        scheme = str(recipe.model.spec.preset.get("position_scheme", ""))
        return show_chat(dialogues[args.example], recipe.objective, template, tokenizer, title=title, scheme=scheme)
    config = loaded.model.config
    return show_chat(
        dialogues[args.example], loaded.objective, template, tokenizer, position_sizes=config.position_sizes,
        title=title, scheme=config.position_scheme,
    )  # fmt: skip


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

    rows = [row_of_text(args, each, tokenizer, None) for each in every_objective(recipe, with_length)]
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
