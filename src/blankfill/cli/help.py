"""The help of a command: its purpose, its options under headings, and examples, for any width of a terminal."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from blankfill.cli.arguments import choices_of
from blankfill.system.schema import Field, fields_of, groups_of, item_type, optional

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
TITLES = {
    "corpus": "Corpus (--corpus.*): how text is prepared",
    "objective": "Objective (--objective.*): what the model predicts",
    "model": "Model (--model.*): its architecture and size",
    "train": "Training (--train.*)",
    "distil": "Distillation (--distil.*): with a teacher",
}
"""Headings of the sections of a recipe."""


def command_help(kind: type, command: str, sections: Mapping[str, Any], width: int = 0) -> str:
    """Return the text of `blankfill COMMAND --help`. width: of the terminal; 0: detected."""
    width = max(NARROWEST, min(WIDEST, width or shutil.get_terminal_size((100, 24)).columns))
    positional = [field for field in fields_of(kind) if field.option.positional]
    usage = " ".join(["usage: blankfill", command, "[OPTIONS]", *map(placeholder, positional)])
    blocks = ["\n".join(wrapped(usage, width, rest="    "))]
    blocks += ["\n".join(wrapped(" ".join(part.split()), width)) for part in (inspect.getdoc(kind) or "").split("\n\n")]
    for title, fields in grouped(kind):
        blocks.append(group(title, [(describe(field, ""), meaning(field, field.default)) for field in fields], width))
    for name, section in sections.items():
        for title, fields in grouped(type(section), TITLES.get(name, name)):
            rows = [(describe(field, f"{name}."), meaning(field, getattr(section, field.name))) for field in fields]
            blocks.append(group(title, rows, width))
    blocks.append(group("Help", [(["-h", "--help"], "Show this message.")], width))
    examples: Sequence[str] = getattr(kind, "EXAMPLES", ())
    if examples:
        blocks.append("\n".join(["Examples:", *(example(line, width) for line in examples)]))
    return "\n\n".join(block for block in blocks if block)


def grouped(kind: type, whole: str = "") -> list[tuple[str, list[Field]]]:
    """Return the fields of a class under their headings; those that no group names under "Options". whole: the heading
    of a section, before those of its groups."""
    fields = {field.name: field for field in fields_of(kind) if not field.option.hidden}
    groups = [
        (f"{whole}: {title.lower()}" if whole else title, [fields.pop(name) for name in names if name in fields])
        for title, names in groups_of(kind).items()
    ]
    positional = [field for field in fields.values() if field.option.positional]
    rest = [field for field in fields.values() if not field.option.positional]
    before = [("Arguments", positional)] if positional else []
    return [(title, members) for title, members in [*before, *groups, (whole or "Options", rest)] if members]


def group(title: str, rows: Sequence[tuple[list[str], str]], width: int) -> str:
    """Return a heading and the options below it. rows: the names of an option, and what it does."""
    lines = [*wrapped(f"{title}:", width)]
    for names, text in rows:
        head = ", ".join(names)
        if 2 + len(head) > width:
            lines += [f"  {name}" for name in names]
        if width < SIDE_BY_SIDE or 2 + len(head) > NAMES - 2:
            lines += [f"  {head}"] if 2 + len(head) <= width else []
            indent = " " * (6 if width < SIDE_BY_SIDE else NAMES)
            lines += wrapped(text, width, indent, indent)
        else:
            first = f"  {head}".ljust(NAMES)
            lines += wrapped(text, width, first, " " * NAMES) or [first.rstrip()]
    return "\n".join(lines)


def describe(field: Field, prefix: str) -> list[str]:
    """Return the names of an option as the command line has them, with a placeholder for its value."""
    if field.option.positional:
        return [placeholder(field)]
    if optional(field.hint)[0] is bool:
        return [f"--{prefix}{field.flag}", f"--{prefix}no-{field.flag}"]
    return [f"--{prefix}{field.flag} {placeholder(field)}"]


def placeholder(field: Field) -> str:
    """Return the placeholder for the value of an option: INT, FLOAT, TEXT, PATH, NAME."""
    hint = optional(field.hint)[0]
    item = item_type(hint)
    names: dict[Any, str] = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}
    name = field.option.metavar or names.get(item or hint, "NAME")
    if field.option.positional and not field.option.metavar:
        name = field.name.upper()
    if item is not None:
        return f"[{name} ...]"
    return f"[{name}]" if field.option.positional and not field.required else name


def meaning(field: Field, value: Any) -> str:
    """Return the description of an option, its possible values, and its default."""
    notes = []
    if choices := choices_of(field):
        notes.append(f"one of {', '.join(choices)}")
    if value is MISSING:
        notes.append("required")
    elif value is not None and value is not False and value not in ("", ()):
        notes.append(f"default: {shown(value)}")
    return f"{field.help} ({'; '.join(notes)})" if notes else field.help


def shown(value: Any) -> str:
    """Return a default as the command line takes it."""
    if value is True:
        return "on"
    if isinstance(value, tuple):
        return " ".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def wrapped(text: str, width: int, first: str = "", rest: str = "") -> list[str]:
    """Return a text in lines of a width, cut between words only. first, rest: the indents of the lines."""
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


def example(line: str, width: int) -> str:
    """Return a command line in lines of a terminal that can be copied, each but the last ending in a backslash."""
    joined = re.sub(r"(--[\w.-]+) (?!-)", lambda match: f"{match[1]}{TOGETHER}", line)
    return " \\\n".join(wrapped(joined, width - 2, "  ", "      ")).replace(TOGETHER, " ")
