"""`blankfill show`: one row of a recipe's training examples, by its number, as text and as a picture."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from blankfill.cli.recipes import RecipeArguments, parse

if TYPE_CHECKING:
    from blankfill.corpus.tokenizer import Tokenizer

BLANKS = ("mask", "gmask", "smask", "dblock", "pseudo")
"""The roles of tokens that stand for text which is not shown."""


@dataclass(frozen=True, kw_only=True)
class ShowArguments(RecipeArguments):
    """Show what a model is trained on.

    Prints row number --example of a run: its tokens, their positions, the targets, and which columns see which. A run
    with the same recipe, seed and text trains on this very row. Every option of the recipe can be changed by its dotted
    name, such as --objective.length 48 or --objective.mask-ratio 0.3.
    """

    GROUPS: ClassVar[Mapping[str, str]] = {
        "Row": "recipe example seed",
        "Output": "png width font out",
    }
    EXAMPLES: ClassVar[tuple[str, ...]] = (
        "blankfill show texts/ --recipe glm-nano --example 3 --png row.png",
        "blankfill show --recipe bert-nano --objective.length 32",
    )

    example: int = 0
    """Number of the row in the run, counted from 0."""
    png: Path | None = None
    """PNG file to draw the row to."""
    out: Path | None = None
    """Folder to store text that has to be prepared first, so that it is prepared once only."""
    width: int = 0
    """Width of the text in characters; 0: that of the terminal."""
    font: Path | None = None
    """Font file for the picture, when the system has none for the language."""


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit code. Raises UserError."""
    from blankfill.errors import UserError

    args, recipe = parse(ShowArguments, "show", argv)
    run_rows = recipe.train.row_schedule.first(recipe.train.steps)
    if not 0 <= args.example < run_rows:
        raise UserError(f"--example is {args.example}; a run of this recipe has the rows 0 to {run_rows - 1:,}")
    if args.png is not None and args.png.suffix.lower() != ".png":
        raise UserError(f"--png {args.png} does not end in .png; only PNG files are drawn")

    from blankfill.pretraining import data_setup
    from blankfill.report.drawing import example_png
    from blankfill.report.picture import example_text
    from blankfill.system.console import say, show

    with tempfile.TemporaryDirectory(prefix="blankfill-", ignore_cleanup_errors=True) as temporary:
        corpus = data_setup.open_corpus(args.paths, recipe, args.out or Path(temporary))
        rows_of = data_setup.phases(corpus, recipe)
        step = recipe.train.row_schedule.step_of(args.example)
        sampler = [phase.new for phase in rows_of if phase.start <= step][-1]
        epoch, place = sampler.locate(args.example)
        examples = sampler.row(args.example)
        rows = sampler.rows_in_epoch(epoch)
        del sampler, rows_of
        name = f"{recipe.name}, seed {recipe.seed}, row {args.example}"
        channels = recipe.objective.channels
        window = int(recipe.model.spec.preset.get("window", 0))
        spell = speller(corpus.tokenizer)
        width = args.width or shutil.get_terminal_size((120, 24)).columns
        if args.png is not None:
            roles = corpus.vocabulary.roles
            blanks = {roles[role] for role in BLANKS if role in roles} | {*corpus.vocabulary.sentinels}
            lacking = example_png(
                examples, spell, args.png, channels=channels, blanks=blanks, title=name, font=args.font, window=window
            )
            if lacking:
                say(
                    f"no font here has {lacking[:20]}{'…' if len(lacking) > 20 else ''}, so those tokens are drawn as "
                    "their numbers; install a font for the language (for Chinese e.g. Noto Sans CJK) or name one with "
                    "--font"
                )
        show(f"{name} (epoch {epoch}, {place + 1:,} of {rows:,} rows)")
        show(example_text(examples, spell, channels=channels, width=width, plain=not blocks_fit(), window=window))
        if args.png is not None:
            show(f"drawn to {args.png}")
        del corpus
    return 0


def speller(tokenizer: Tokenizer) -> Callable[[int], str]:
    """How a token is written: its own string, or for byte-level vocabularies the text of its bytes, ␣ for a space.

    A token that is only a part of a character keeps its own string.
    """
    if tokenizer.id("Ġ") is None:
        return tokenizer.token

    def spell(id: int) -> str:
        text = tokenizer.decode([id], skip_special=False)
        return tokenizer.token(id) if not text or "\ufffd" in text else text.replace(" ", "␣")

    return spell


def blocks_fit() -> bool:
    """Whether standard output can show block characters."""
    try:
        "·█▌".encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
