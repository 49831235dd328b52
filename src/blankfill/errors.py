"""Errors that are the user's to mend: one plain sentence each, no traceback.

Raise `UserError` for anything that a file, a flag or a recipe did wrong. The command line prints its text and exits
with code 2; the library raises it as it is. Programming mistakes stay ordinary exceptions.
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_LINE = 2000
"""Characters of a line of a message at most: one that quotes its input must not repeat a megabyte of it."""


class UserError(Exception):
    """Bad input, explained in one sentence that names what is wrong, where, and the remedy.

    The middle of a line of more than `LONGEST_LINE` characters is left out.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__("\n".join(map(_shortened, message.split("\n"))))


def _shortened(line: str) -> str:
    if len(line) <= LONGEST_LINE:
        return line
    half = LONGEST_LINE // 2
    return f"{line[:half]} … {line[-half:]}"


class ConfigError(UserError):
    """All the mistakes of a configuration at once; `problems` holds one sentence each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(map(_shortened, problems))
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        return (type(self), (self.problems,))
