"""Options of every command: what is printed, and how. They are read before the command is imported, and may be anywhere
in the command line before `--`."""

from __future__ import annotations

import keyword
from collections.abc import Sequence
from typing import NamedTuple

COMMON: dict[tuple[str, ...], str] = {
    ("-h", "--help"): "Show this message.",
    ("--json",): "Print the result as JSON on standard output; notices and progress are on standard error.",
    ("-q", "--quiet"): "Print errors only, and the result where the command is run for its text.",
    ("--debug",): "Show the traceback of an error.",
}
"""The names of each option, and what it does."""


class Common(NamedTuple):
    """The options of every command, in one command line."""

    json: bool = False
    quiet: bool = False
    debug: bool = False


def split(argv: Sequence[str]) -> tuple[Common, list[str]]:
    """Return the options of every command in a command line, but for the help, and the other arguments."""
    end = list(argv).index("--") if "--" in argv else len(argv)
    names = {"--json": "json", "-q": "quiet", "--quiet": "quiet", "--debug": "debug"}
    given = {names[arg]: True for arg in argv[:end] if arg in names}
    return Common(**given), [arg for number, arg in enumerate(argv) if number >= end or arg not in names]


def module_of(command: str) -> str:
    """Return the name of the module of a command."""
    return f"blankfill.cli.{command}{'_' * keyword.iskeyword(command)}"
