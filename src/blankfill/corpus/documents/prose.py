"""What counts as a sentence in a table of a document."""

from __future__ import annotations

_SHORTEST = 40
"""Characters of a cell of a table that may be prose."""


def is_prose(text: str) -> bool:
    """Return whether a cell of a table is running text: long enough, and ending like a sentence."""
    text = text.strip()
    return len(text) >= _SHORTEST and text.rstrip("\"'”’»)）」』").endswith((".", "!", "?", "…", "。", "！", "？", "।"))
