"""`blankfill help`, and the help of every command: its purpose, its options under headings, and examples, for any width
of a terminal."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from blankfill.cli.arguments import arguments_of, choices_of, parsed
from blankfill.cli.common import COMMON
from blankfill.cli.layout import columns, examples, group, paragraphs, wrapped
from blankfill.cli.result import Result, Rows
from blankfill.errors import UserError, in_flags, setting
from blankfill.system.schema import Field, Option, fields_of, groups_of, item_type, optional

TITLES = {
    "corpus": "Corpus (--corpus.*): how text is prepared",
    "objective": "Objective (--objective.*): what the model predicts",
    "model": "Model (--model.*): its architecture and size",
    "train": "Training (--train.*)",
    "distil": "Distillation (--distil.*): with a teacher",
    "prompts": "Prompted data sets (--prompts.*): multi-task instruction pretraining",
}
"""Headings of the sections of a recipe."""


def known_commands() -> list[str]:
    """Return the names of all commands."""
    from blankfill.cli.main import COMMANDS

    return list(COMMANDS)


@dataclass(frozen=True, kw_only=True)
class HelpArguments:
    """Show the help of a command, or the list of all commands."""

    EXAMPLES: ClassVar[tuple[str, ...]] = ("blankfill help pretrain",)

    command: Annotated[str, Option(positional=True, suggestions=known_commands)] = ""
    """Name of the command; without it, the list of the commands."""
    subcommand: Annotated[str, Option(positional=True)] = ""
    """Name of its subcommand, where it has one: tokenizer show."""


def main(argv: Sequence[str]) -> Result | Rows[Any]:
    """Run the command."""
    from blankfill.cli.main import command_named, overview, run

    args = parsed(HelpArguments, argv, "help")
    if not args.command:
        return overview()
    name = command_named(args.command)
    known = getattr(arguments_of(name), "SUBCOMMAND", "")
    if args.subcommand not in ("", known):
        has = f"one subcommand, {known}" if known else "no subcommands"
        raise UserError(f"`blankfill {name}` has {has}; leave out {args.subcommand[:40]!r}")
    return run([name, "--help"])


def command_help(kind: type, command: str, sections: Mapping[str, Any], width: int = 0) -> str:
    """Return the text of `blankfill COMMAND --help`. width: of the terminal; 0: detected."""
    width = columns(width)
    blocks = [usage_line(kind, command, width), *paragraphs(inspect.getdoc(kind) or "", width)]
    for title, fields in grouped(kind):
        blocks.append(group(title, [(describe(field, ""), meaning(field, field.default)) for field in fields], width))
    for name, section in sections.items():
        for title, fields in grouped(type(section), TITLES.get(name, name)):
            rows = [(describe(field, f"{name}."), meaning(field, getattr(section, field.name))) for field in fields]
            blocks.append(group(title, rows, width))
    blocks += [group("Options of every command", list(COMMON.items()), width), examples(examples_of(kind), width)]
    return "\n\n".join(block for block in blocks if block)


def short_usage(kind: type, command: str, width: int = 0) -> str:
    """Return what a command prints when its arguments are missing: how it is called, its purpose and its examples."""
    width = columns(width)
    purpose = paragraphs(inspect.getdoc(kind) or "", width)[0]
    rest = "\n".join(wrapped(f"`blankfill {command} --help` lists the options.", width))
    blocks = [usage_line(kind, command, width), purpose, examples(examples_of(kind), width), rest]
    return "\n\n".join(block for block in blocks if block)


def usage_line(kind: type, command: str, width: int) -> str:
    """Return how a command is called, with the arguments that it requires."""
    fields = [field for field in fields_of(kind) if not field.option.hidden]
    positional = [placeholder(field) for field in fields if field.option.positional]
    required = [describe(field, "")[0] for field in fields if is_required(field) and not field.option.positional]
    usage = " ".join(["usage: blankfill", command, *positional, *required, "[OPTIONS]"])
    return "\n".join(wrapped(usage, width, rest="    "))


def examples_of(kind: type) -> Sequence[str]:
    """Return the command lines that show how a command is used."""
    lines: Sequence[str] = getattr(kind, "EXAMPLES", ())
    return lines


def is_required(field: Field) -> bool:
    """Return whether a command needs a value of the field, with or without exceptions."""
    return field.required or bool(field.option.unless)


def grouped(kind: type, whole: str = "") -> list[tuple[str, list[Field]]]:
    """Return the fields of a class under their headings: first those that are required, then the arguments without a
    name, then the groups of the class; fields that no group names under "Options".

    whole: the heading of a section, before those of its groups.
    """
    fields = {field.name: field for field in fields_of(kind) if not field.option.hidden}
    required = [fields.pop(field.name) for field in list(fields.values()) if not whole and is_required(field)]
    positional = [fields.pop(field.name) for field in list(fields.values()) if field.option.positional]
    groups = [
        (f"{whole}: {title.lower()}" if whole else title, [fields.pop(name) for name in names if name in fields])
        for title, names in groups_of(kind).items()
    ]
    before = [("Required", required), ("Arguments", positional)]
    rest = (whole or "Options", list(fields.values()))
    return [(title, members) for title, members in [*before, *groups, rest] if members]


def describe(field: Field, prefix: str) -> list[str]:
    """Return the names of an option as the command line has them, with a placeholder for its value."""
    if field.option.positional:
        return [placeholder(field)]
    names = names_of(field, prefix)
    return names if len(names) > 1 else [f"{names[0]} {placeholder(field)}"]


def names_of(field: Field, prefix: str = "") -> list[str]:
    """Return the names of an option on the command line: two for yes and no. prefix: that of its section."""
    name = f"--{prefix}{field.flag}"
    return [name, f"--{prefix}no-{field.flag}"] if optional(field.hint)[0] is bool else [name]


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
    if field.option.unless:
        notes.append(f"required, unless {in_flags(setting(field.option.unless))} is given")
    elif value is MISSING:
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
