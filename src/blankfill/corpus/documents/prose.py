"""What all forms of documents share: their error, and what counts as a sentence in a table."""

from __future__ import annotations

from blankfill.errors import UserError

_SHORTEST = 40
"""Characters of a cell of a table that may be prose."""


class SourceError(UserError):
    """A file whose text cannot be read at all. In a folder such a file is passed over and listed."""


def is_prose(text: str) -> bool:
    """Return whether a cell of a table is running text: long enough, and ending like a sentence."""
    text = text.strip()
    return len(text) >= _SHORTEST and text.rstrip("\"'”’»)）」』").endswith((".", "!", "?", "…", "。", "！", "？", "।"))
