"""`blankfill completion`: scripts for shells, and the answers to them.

A script runs `blankfill` with the line that is being typed, each time the user presses Tab. `complete` then builds a
parser of argparse for the command in that line alone, from the same classes of arguments as the command line itself,
and the library argcomplete chooses and quotes what fits. No model is opened and torch is not imported.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from blankfill.cli.arguments import arguments_of, choices_of, parsed
from blankfill.cli.common import COMMON
from blankfill.cli.help import names_of
from blankfill.cli.result import Result
from blankfill.system.console import show
from blankfill.system.schema import Field, Option, fields_of, item_type, optional

Shell = Literal["bash", "zsh", "fish"]
USUAL: Mapping[str, Sequence[str]] = {"device": ("auto", "cpu", "cuda", "mps")}
"""Values of options that take others too, by the name of the option."""


@dataclass(frozen=True, kw_only=True)
class CompletionArguments:
    """Print a script that completes commands, options and values in a shell.

    Run it where the shell starts. bash, in ~/.bashrc, and zsh, in ~/.zshrc after compinit: eval "$(blankfill completion
    bash)", with the name of the shell. fish: the script is the file blankfill.fish in ~/.config/fish/completions.
    """

    EXAMPLES: ClassVar[tuple[str, ...]] = ("blankfill completion bash",)

    shell: Annotated[Shell, Option(positional=True)]
    """Shell that reads the script."""


def main(argv: Sequence[str]) -> Result:
    """Run the command."""
    from argcomplete.shell_integration import shellcode

    args = parsed(CompletionArguments, argv, "completion")
    script = shellcode(["blankfill"], shell=args.shell).strip()
    return Result(values={"shell": args.shell, "script": script}, show=lambda: show(script), is_output=True)


def complete() -> None:
    """Answer the script of a shell with what may follow in the line that is being typed, and end the process."""
    import argcomplete
    from argcomplete.completers import SuppressCompleter
    from argcomplete.lexers import split_line

    line = os.environ.get("COMP_LINE", "")
    words = split_line(line, int(os.environ.get("COMP_POINT", len(line))))[3][1:]
    parser, has_positional = parser_of(words)
    argcomplete.autocomplete(parser, always_complete_options=not has_positional, default_completer=SuppressCompleter())


def parser_of(words: Sequence[str]) -> tuple[argparse.ArgumentParser, bool]:
    """Return the parser of a line with these finished words, and whether values without a name may follow."""
    from blankfill.cli.main import COMMANDS

    command = next((word for word in words if not word.startswith("-")), "")
    parser = argparse.ArgumentParser(prog="blankfill", add_help=False, allow_abbrev=False)
    add_common(parser)
    parser.add_argument("-V", "--version", action="store_true", help="Print the version.")
    commands = parser.add_subparsers(dest="command")
    has_positional = True
    for name, purpose in COMMANDS.items():
        own = commands.add_parser(name, add_help=False, allow_abbrev=False, help=purpose)
        if name == command:
            add_common(own)
            has_positional = add_options(own, name, words)
    return parser, has_positional


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options of every command."""
    for names, text in COMMON.items():
        parser.add_argument(*names, action="store_true", help=text)


def add_options(parser: argparse.ArgumentParser, command: str, words: Sequence[str]) -> bool:
    """Add the options of a command; returns whether it takes values without a name."""
    kind = arguments_of(command)
    if subcommand := getattr(kind, "SUBCOMMAND", ""):
        parser.add_argument("subcommand", choices=[subcommand])
    positional = False
    for prefix, options in {"": kind, **sections_of(kind, words)}.items():
        for field in fields_of(options):
            if not field.option.hidden:
                add_field(parser, field, prefix)
                positional |= field.option.positional
    return positional


def sections_of(kind: type, words: Sequence[str]) -> Mapping[str, type]:
    """Return the classes of options of the recipe in a line, by their prefix; {} for a command without recipe."""
    from blankfill.cli.recipe_arguments import DEFAULT, RecipeArguments, recipe_of

    if not issubclass(kind, RecipeArguments):
        return {}
    from blankfill.config.recipe import SECTIONS, load_recipe
    from blankfill.errors import UserError

    try:
        recipe = load_recipe(recipe_of(words))
    except UserError:  # not written to the end
        recipe = load_recipe(DEFAULT)
    return {f"{name}.": type(getattr(recipe, name)) for name in SECTIONS}


def add_field(parser: argparse.ArgumentParser, field: Field, prefix: str) -> None:
    """Add an option of a command line."""
    hint = optional(field.hint)[0]
    text = field.help.replace("%", "%%")
    if hint is bool and not field.option.positional:
        for name in names_of(field, prefix):
            parser.add_argument(name, action="store_true", help=text)
        return
    many = item_type(hint) is not None
    if field.option.positional:
        action = parser.add_argument(field.name, nargs="*" if many else "?", help=text)
    else:
        action = parser.add_argument(*names_of(field, prefix), nargs="*" if many else None, help=text)
    action.completer = completer_of(field)  # type: ignore[attr-defined]


def completer_of(field: Field) -> Callable[..., Iterable[str]]:
    """Return the function that gives the values of an option which begin with what is written."""
    from argcomplete.completers import FilesCompleter

    hint = optional(field.hint)[0]
    is_path = Path in (hint, item_type(hint)) or field.option.metavar in ("PATH", "TEXT", "RECIPE")
    known = field.option.suggestions or (lambda: USUAL.get(field.name) or choices_of(field))
    files = FilesCompleter() if is_path or field.name == "tokenizer" else None

    def values(prefix: str, **given: Any) -> list[str]:
        names = [name for name in known() if name.startswith(prefix)]
        return names + list(files(prefix)) if files else names

    return values
