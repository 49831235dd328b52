"""Errors that are the user's to mend: one plain sentence each, no traceback.

Raise `UserError` for anything that a file, a flag or a recipe did wrong. The command line prints its text and exits
with code 2; the library raises it as it is. Programming mistakes stay ordinary exceptions.
"""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """Bad input, told in one sentence that names what is wrong, where, and the remedy."""


class ConfigError(UserError):
    """All the mistakes of a configuration at once; `problems` holds one sentence each."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        return (type(self), (self.problems,))
