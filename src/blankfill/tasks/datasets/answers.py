"""Where an answer is in its context."""

from __future__ import annotations


def place_of(context: str, text: str, start: int | None) -> tuple[int | None, bool]:
    """Return the first character of an answer in its context, and whether it is not the one that the data give.

    start: as in the data; None takes the first occurrence. An answer that is not at its start but occurs once is placed
    there; the place of any other is None.
    """
    if start is None:
        return (context.find(text) if text in context else None), False
    if start >= 0 and text and context.startswith(text, start):
        return start, False
    if text and context.count(text) == 1:
        return context.index(text), True
    return None, False
