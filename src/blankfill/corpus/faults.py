"""The error of a file that cannot be read, which in a folder of many files is passed over and listed."""

from __future__ import annotations

from blankfill.errors import Problem, UserError


class SourceError(UserError):
    """A file that is damaged, protected, too large or of an unknown form, or whose package is missing.

    In a folder such a file is passed over and listed; a file that the user named is an error.
    """

    def line(self, name: str) -> Problem:
        """Return the message as a line of a list, "path: reason". name: of the file."""
        message = self.template.removesuffix(".")
        return Problem(f"{name}: {message.removeprefix(name).lstrip(' :')}")
