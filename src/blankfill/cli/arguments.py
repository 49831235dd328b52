"""Parsing command lines: from arguments to texts by option names, which `system.loader` turns into values.

A class of arguments is a dataclass (`system.schema`); the sections of a recipe, where a command has one, are reached by
dotted names. `--name value`, `--name=value`, `--flag` and `--no-flag`; a list takes the values up to the next option;
`--` ends the options. Every mistake is one plain sentence with the nearest name, and all of them are reported at once.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin

from blankfill.cli.common import COMMON, module_of
from blankfill.cli.result import Result, render
from blankfill.errors import ConfigError, NoArgumentsError, Problem, setting
from blankfill.system.bounds import out_of_bounds
from blankfill.system.console import show
from blankfill.system.loader import load
from blankfill.system.schema import Field, expected, fields_of, item_type, optional, unknown

T = TypeVar("T")

LONGEST_MESSAGE = 4000
"""Largest number of characters of a message; the middle of a longer one is left out."""
NUMBER = re.compile(r"-(\d|\.\d|inf|nan)")
"""The beginning of a negative number, which is a value and not an option."""


@dataclass(frozen=True)
class Flag:
    """A name on the command line. path: path of its option. value: the value of the name alone, for yes and no."""

    path: str
    field: Field
    value: bool | None = None

    @property
    def is_switch(self) -> bool:
        """Whether the name alone is a value."""
        return self.value is not None

    @property
    def item(self) -> Any:
        """The type of the values of a list; None for an option of one value."""
        return item_type(optional(self.field.hint)[0])


def parsed(kind: type[T], argv: Sequence[str], command: str, sections: Mapping[str, Any] | None = None) -> T:
    """Return the arguments of a command as its dataclass, numbers checked against their bounds.

    sections: the sections of a recipe by name, for the help and for options that are there none of; `texts_of` gives
    what the command line says about them. Raises ConfigError with every mistake; NoArgumentsError when a command that
    needs arguments has none; SystemExit after printing the help.
    """
    if wants_help(argv):
        from blankfill.cli.help import command_help

        text = command_help(kind, command, sections or {})
        render(Result(values={"help": text}, show=lambda: show(text), is_output=True))
        raise SystemExit(0)
    if not argv and needs_arguments(kind):
        from blankfill.cli.help import short_usage

        raise NoArgumentsError(command, short_usage(kind, command))
    texts, problems = texts_of(kind, argv, command, sections or {})
    own = {path: text for path, text in texts.items() if "." not in path}
    args = load(kind, own, problems, texts=True)
    if args is not None:
        problems += missing(kind, texts) + out_of_bounds(args)
    if problems:
        raise ConfigError(problems)
    assert args is not None
    return args


def arguments_of(command: str) -> type:
    """Return the class of a command's arguments: the one of its module that has examples."""
    module = importlib.import_module(module_of(command))
    own = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]
    (kind,) = [value for value in own if hasattr(value, "EXAMPLES")]
    return kind


def needs_arguments(kind: type) -> bool:
    """Return whether a command cannot be run without arguments: it says so (`NEEDS_ARGUMENTS`), or requires a value."""
    fields = fields_of(kind)
    return getattr(kind, "NEEDS_ARGUMENTS", any(field.required or field.option.unless for field in fields))


def missing(kind: type, texts: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each value that is required without another option, when both are missing."""
    return [
        Problem(f"{setting(field.option.name or field.name)} is missing")
        for field in fields_of(kind)
        if field.option.unless and field.name not in texts and field.option.unless not in texts
    ]


def wants_help(argv: Sequence[str]) -> bool:
    """Return whether a command line requests the help of its command."""
    options = argv[: argv.index("--")] if "--" in argv else argv
    return "--help" in options or "-h" in options


def texts_of(
    kind: type, argv: Sequence[str], command: str, sections: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return the text of each option of a command line (texts for a list) by its path, and the problems."""
    flags = flags_of(kind, sections)
    listed = f"`blankfill {command} --help` lists them"
    texts: dict[str, Any] = {}
    rest: list[str] = []
    problems: list[str] = []
    arguments = list(argv)
    while arguments:
        argument = arguments.pop(0)
        if argument == "--":
            rest += arguments
            break
        if not is_option(argument):
            rest.append(argument)
            continue
        name, equals, value = argument.partition("=")
        flag = flags.get(name.removeprefix("--").replace("_", "-")) if name.startswith("--") else None
        if flag is None:
            if name.startswith("--"):
                common = [name.removeprefix("--") for names in COMMON for name in names if name.startswith("--")]
                known = [flag.path for flag in flags.values()] + common
                problems.append(unknown(name.removeprefix("--").replace("-", "_"), known, listed))
            else:
                problems.append(f"there is no option {name[:40]}; {listed}")
            if not equals and arguments and not is_option(arguments[0]):
                arguments.pop(0)  # most likely the value of the unknown option
        elif equals:
            if flag.is_switch and not flag.value:
                problems.append(f"{name} takes no value; leave out ={value[:40]}")
            texts[flag.path] = [*texts.get(flag.path, ()), value] if flag.field.option.repeats else value
        elif flag.is_switch:
            texts[flag.path] = str(flag.value)
        else:
            taken = 0
            while taken < len(arguments) and not is_option(arguments[taken]) and (flag.item is not None or not taken):
                taken += 1
            if not taken and flag.item is None:
                wanted = expected(optional(flag.field.hint)[0])
                problems.append(Problem(f"{setting(flag.path)} has no value; give {wanted} behind it"))
                continue
            given = arguments[:taken] if flag.item is not None else arguments[0]
            texts[flag.path] = [*texts.get(flag.path, ()), *given] if flag.field.option.repeats else given
            del arguments[:taken]
    problems += place_positionals(kind, rest, texts)
    return texts, problems


def place_positionals(kind: type, rest: Sequence[str], texts: dict[str, Any]) -> list[str]:
    """Assign the arguments without a name to the fields that take them; returns the problems."""
    left = list(rest)
    for field in fields_of(kind):
        if not field.option.positional:
            continue
        if item_type(field.hint) is not None:
            if left:
                texts[field.name] = left
            left = []
        elif left:
            texts[field.name] = left.pop(0)
    return [f"nothing is expected at {argument[:60]!r}; leave it out" for argument in left[:1]]


def is_option(argument: str) -> bool:
    """Return whether an argument is the name of an option: not a value, not -, not a negative number."""
    return argument.startswith("-") and argument != "-" and not NUMBER.match(argument)


def flags_of(kind: type, sections: Mapping[str, Any]) -> dict[str, Flag]:
    """Return every name that a command line may have, without its dashes."""
    flags: dict[str, Flag] = {}
    for prefix, options in [("", kind), *((f"{name}.", type(section)) for name, section in sections.items())]:
        for field in fields_of(options):
            if field.option.positional or field.option.hidden:
                continue
            path = prefix + field.name
            if optional(field.hint)[0] is bool:
                flags[prefix + field.flag] = Flag(path, field, True)
                flags[f"{prefix}no-{field.flag}"] = Flag(path, field, False)
            else:
                flags[prefix + field.flag] = Flag(path, field)
    return flags


def given_names(argv: Sequence[str]) -> list[str]:
    """Return the names of the options of a command line, with their dashes, words joined by -."""
    options = argv[: argv.index("--")] if "--" in argv else argv
    return [arg.split("=")[0].replace("_", "-") for arg in options if arg.startswith("--")]


def shortened(message: str) -> str:
    """Return a message, without its middle when it is too long to read."""
    if len(message) <= LONGEST_MESSAGE:
        return message
    return f"{message[: LONGEST_MESSAGE // 2]} … {message[-LONGEST_MESSAGE // 4 :]}"


def choices_of(field: Field) -> list[str]:
    """Return the values that a field may have, where they are few words; empty otherwise."""
    if field.option.choices is not None:
        return list(field.option.choices())
    hint = optional(field.hint)[0]
    hint = item_type(hint) or hint
    return [str(choice) for choice in get_args(hint)] if get_origin(hint) is Literal else []
