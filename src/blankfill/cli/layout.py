"""The layout of help texts: headings, names with descriptions beside or below them, and lines cut between words."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Sequence

WIDEST = 110
"""Largest number of columns of a line; longer lines are hard to read."""
NARROWEST = 40
"""Smallest number of columns for help."""
NAMES = 30
"""Columns of option names with descriptions beside them."""
SIDE_BY_SIDE = 72
"""Number of columns from which descriptions are beside the names, not below them."""
TOGETHER = "\ue000"
"""Replaces the space between an option and its value, where no line may break."""


def columns(width: int = 0) -> int:
    """Return the number of columns of help. width: of the terminal; 0: detected."""
    return max(NARROWEST, min(WIDEST, width or shutil.get_terminal_size((100, 24)).columns))


def group(title: str, rows: Sequence[tuple[Sequence[str], str]], width: int, names: int = NAMES) -> str:
    """Return a heading and the options below it. rows: the names of an option, and what it does. names: columns of the
    names."""
    lines = [*wrapped(f"{title}:", width)] if title else []
    for given, text in rows:
        head = ", ".join(given)
        if 2 + len(head) > width:
            lines += [f"  {name}" for name in given]
        if width < SIDE_BY_SIDE or 2 + len(head) > names - 2:
            lines += [f"  {head}"] if 2 + len(head) <= width else []
            indent = " " * (6 if width < SIDE_BY_SIDE else names)
            lines += wrapped(text, width, indent, indent)
        else:
            first = f"  {head}".ljust(names)
            lines += wrapped(text, width, first, " " * names) or [first.rstrip()]
    return "\n".join(lines)


def wrapped(text: str, width: int, first: str = "", rest: str = "") -> list[str]:
    """Return a text in lines of a width, cut between words only. first, rest: the indents of the lines."""
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


def paragraphs(text: str, width: int) -> list[str]:
    """Return the paragraphs of a text, which have an empty line between them, each in lines of a width."""
    return ["\n".join(wrapped(" ".join(part.split()), width)) for part in text.split("\n\n")]


def example(line: str, width: int) -> str:
    """Return a command line in lines of a terminal that can be copied, each but the last ending in a backslash."""
    joined = re.sub(r"(--[\w.-]+) (?!-)", lambda match: f"{match[1]}{TOGETHER}", line)
    return " \\\n".join(wrapped(joined, width - 2, "  ", "      ")).replace(TOGETHER, " ")


def examples(lines: Sequence[str], width: int) -> str:
    """Return command lines under their heading; "" for none."""
    return "\n".join(["Examples:", *(example(line, width) for line in lines)]) if lines else ""
