"""`blankfill show`: one row of a recipe's training examples, by its number, as text and as a picture."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from blankfill.cli.recipe_arguments import RecipeArguments, parse
from blankfill.cli.result import Result
from blankfill.errors import setting


@dataclass(frozen=True, kw_only=True)
class ShowArguments(RecipeArguments):
    """Show a training example.

    Prints row number --example of a run: its tokens, their positions, the targets, and the attention. A run with the
    same recipe, seed and text trains on exactly this row. Every option of the recipe can be changed by its dotted
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
    """Folder for the prepared text, where the text is not prepared yet; the next call reads it from there."""
    width: int = 0
    """Width of the text in characters; 0: that of the terminal."""
    font: Path | None = None
    """Font file for the picture, for a language that no font of the system covers."""


def main(argv: Sequence[str]) -> Result:
    """Run the command. Raises UserError."""
    from blankfill.errors import UserError

    args, recipe = parse(ShowArguments, "show", argv)
    if args.png is not None and args.png.suffix.lower() != ".png":
        raise UserError(f"{setting('png', args.png)} does not end in .png; only PNG files are drawn")

    from blankfill.pretraining import show
    from blankfill.system import console

    row = show.show(recipe, args.paths, args.example, args.out)
    if args.png is not None and (lacking := row.png(args.png, args.font)):
        console.say(
            f"no font here has {lacking[:20]}{'…' if len(lacking) > 20 else ''}, so those tokens are drawn as their "
            "numbers; install a font for the language (for Chinese e.g. Noto Sans CJK) or name one with "
            f"{setting('font')}"
        )

    def show_row() -> None:
        console.show(row.heading)
        console.show(row.text(args.width or shutil.get_terminal_size((120, 24)).columns, plain=not blocks_fit()))
        if args.png is not None:
            console.show(f"drawn to {args.png}")

    return Result(values={**row.values(), "png": args.png}, show=show_row, is_output=True)


def blocks_fit() -> bool:
    """Return whether standard output can show block characters."""
    try:
        "·█▌".encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True
