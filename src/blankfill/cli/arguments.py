"""How every command line is parsed: tyro reads it, numbers are checked against their bounds, and mistakes are reported.

What tyro writes about a mistake repeats the arguments, which come from anywhere and may be of any length: it is made
harmless and short before a terminal sees it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any, TypeVar

from blankfill.errors import ConfigError, UserError
from blankfill.system.bounds import out_of_bounds
from blankfill.system.console import OutputError, say

T = TypeVar("T")

LONGEST_NAME = 200
"""Characters of an option's name at most. The nearest known names are searched for a wrong one, which takes seconds for
one of 100,000 characters."""
LONGEST_MESSAGE = 4000
"""Characters of a message at most; the middle of a longer one is left out."""


def parsed(kind: type[T], argv: Sequence[str], command: str, **more: Any) -> T:
    """The arguments of a command as its dataclass. more: for `tyro.cli`.

    Raises ConfigError for numbers out of their bounds, UserError for an impossible name, SystemExit for the rest.
    """
    import tyro

    with parsing(argv, command):
        args = tyro.cli(kind, args=list(argv), prog=f"blankfill {command}", **more)
    if problems := out_of_bounds(args, "--", dashes=True):
        raise ConfigError(problems)
    return args


@contextmanager
def parsing(argv: Sequence[str], command: str) -> Iterator[None]:
    """Around a call of tyro: refuse impossible names before, make what it writes about a mistake harmless after."""
    for arg in argv:
        name = arg.split("=", 1)[0]
        if name.startswith("--") and len(name) > LONGEST_NAME:
            raise UserError(
                f"there is no option {name[:40]}… of {len(name):,} characters; `blankfill {command} --help` lists them"
            )
    told = io.StringIO()
    try:
        with redirect_stderr(told):
            yield
    except SystemExit:
        if message := told.getvalue().rstrip("\n"):
            say(shortened(message))
        raise
    except BrokenPipeError:
        raise
    except OSError as error:  # nothing but the help is written here
        raise OutputError.of(error) from error


def shortened(message: str) -> str:
    """A message without its middle, when it is longer than anyone reads."""
    if len(message) <= LONGEST_MESSAGE:
        return message
    return f"{message[: LONGEST_MESSAGE // 2]} … {message[-LONGEST_MESSAGE // 4 :]}"
