"""Loading dataclasses from plain values, each checked against the annotation of its field.

All options and all saved settings are loaded here: recipes and their overrides, command lines, grids, the options of a
fine-tuned model, states of runs. `load` reads settings: it collects a sentence for every problem, with the path of its
field. `build` reads a file that a program wrote, which may be damaged, of another version or from a stranger: the first
problem raises a UserError with the file and the field. Each class checks its own ranges (`problems`, `system.bounds`).
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from blankfill.errors import Problem, UserError, setting
from blankfill.system.reading import mended, of_kind, shown
from blankfill.system.schema import Field, expected, fields_of, item_type, nearest, unknown

T = TypeVar("T")


class MismatchError(Exception):
    """A value of the wrong type. path: names and indices that lead to it inside the value that was read."""

    def __init__(self, value: object, wanted: str, path: tuple[str, ...] = ()) -> None:
        super().__init__(value, wanted, path)
        self.value, self.wanted, self.path = value, wanted, path

    def inside(self, name: str) -> MismatchError:
        """Return the same mismatch, seen from what holds the value under a name."""
        return MismatchError(self.value, self.wanted, (name, *self.path))

    @property
    def sentence(self) -> str:
        """A phrase on the problem of the value, without the name of its field."""
        return f"is {shown(self.value)}; it must be {self.wanted}"


def load(
    schema: type[T],
    values: Mapping[str, Any],
    problems: list[str],
    section: str = "",
    texts: bool = False,
    base: T | None = None,
) -> T | None:
    """Return an instance of a dataclass from plain values; appends a Problem for everything that is wrong.

    section: the path of the dataclass in the settings. texts: values are texts, as a command line has them; lists are
    lists of texts. base: supplies the fields that are not given; without it their defaults do. Returns None when a
    problem was found.
    """
    fields = {field.name: field for field in fields_of(schema)}
    before = len(problems)
    prefix = f"{section}." if section else ""
    converted: dict[str, Any] = {}
    for name, value in values.items():
        if name not in fields:
            problems.append(unknown(f"{prefix}{name}", [f"{prefix}{known}" for known in fields]))
            continue
        path = f"{prefix}{fields[name].option.name or name}"
        try:
            converted[name] = convert_field(fields[name], value, texts)
        except MismatchError as error:
            if fields[name].option.positional and not error.path:
                problems.append(f"{name.upper()} {error.sentence}")
            else:
                problems.append(mismatch(".".join((path, *error.path)), error))
    for name, field in fields.items():
        if base is None and field.required and name not in values:
            named = name.upper() if field.option.positional else setting(prefix + (field.option.name or name))
            problems.append(Problem(f"{named} is missing"))
    if len(problems) > before:
        return None
    if base is not None:
        return dataclasses.replace(base, **converted)  # type: ignore[type-var]
    return schema(**converted)


def mismatch(path: str, error: MismatchError) -> Problem:
    """Return the sentence about a setting whose value is not of its type."""
    return Problem(f"{setting(path)} {error.sentence}")


def convert_field(field: Field, value: Any, texts: bool = False) -> Any:
    """Return the value of a field; raises MismatchError for another type, and for a text that is no choice of the
    field.

    A choice that is near to a wrong one is suggested.
    """
    converted = read_text(value, field.hint) if texts else convert(value, field.hint)
    if field.option.choices is not None and isinstance(converted, str):
        choices = field.option.choices()
        if converted not in choices:
            raise MismatchError(converted, one_of(converted, list(choices)))
    return converted


def one_of(text: object, choices: Sequence[Any]) -> str:
    """Return a phrase with the choices, for a text that is not among them."""
    names = [str(choice) for choice in choices]
    close = nearest(text, names) if isinstance(text, str) else ""
    hint = f" (did you mean {close}?)" if close else ""
    return f"one of {', '.join(names)}{hint}"


def convert(value: Any, hint: Any, finite: bool = False) -> Any:
    """Convert a value to the type of an annotation; lists become tuples where the annotation has tuples.

    A whole number is accepted as a number, a boolean as neither. finite: reject numbers that are not finite. Raises
    MismatchError.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any or hint is object:
        return value
    if hint is None or hint is type(None):
        return _checked(value, value is None, hint)
    if dataclasses.is_dataclass(hint):
        return _convert_dataclass(value, hint, finite)
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in parts):
            raise MismatchError(value, one_of(value, parts))
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(value, hint, finite)
    if origin is tuple or origin in (list, Sequence):
        return _convert_list(value, hint, finite)
    if origin in (dict, Mapping):
        _checked(value, isinstance(value, Mapping), hint)
        return {name: _inside(shown(name), item, parts[1], finite) for name, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise MismatchError(value, "a number that is less large") from None
    if hint is Path and isinstance(value, str):
        return Path(value)
    kind = origin or hint
    _checked(value, isinstance(value, kind) and (kind is bool or not isinstance(value, bool)), hint)
    if finite and isinstance(value, float) and not math.isfinite(value):
        raise MismatchError(value, "a finite number")
    return value


def read_text(text: Any, hint: Any) -> Any:
    """Return a value that is written as text, or a list of such texts: a number, true or false, one of some words, a
    path.

    Raises MismatchError.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if hint is str:
        return text
    if origin in (Union, types.UnionType):
        if type(None) in parts and isinstance(text, str) and text.lower() in ("none", "null"):
            return None
        return _first(text, [part for part in parts if part is not type(None)], read_text, hint)
    if origin is tuple and item_type(hint) is None:
        items = list(text) if isinstance(text, list | tuple) else [text]
        _checked(text, len(items) == len(parts), hint)
        return tuple(read_text(item, part) for item, part in zip(items, parts, strict=True))
    if (item := item_type(hint)) is not None:
        items = [read_text(part, item) for part in (text if isinstance(text, list | tuple) else [text])]
        return tuple(items) if origin is tuple else items
    if origin is Literal:
        named = {str(choice): choice for choice in parts}
        if text not in named:
            raise MismatchError(text, one_of(text, parts))
        return named[text]
    if hint is Path:
        return Path(text)
    if hint is bool:
        if not isinstance(text, str) or text.lower() not in ("true", "false"):
            raise MismatchError(text, expected(bool))
        return text.lower() == "true"
    if hint not in (int, float):
        raise MismatchError(text, "given otherwise, not as one value")
    try:
        return hint(text)
    except (ValueError, TypeError):
        raise MismatchError(text, expected(hint)) from None


def build(kind: type[T], values: object, where: object, finite: bool = True) -> T:
    """Return an instance of a dataclass from an object of JSON values that was read from a file.

    where: the file, and the field when the object is in one. finite: refuse numbers that are not. Fields with a default
    may be missing. Raises UserError that begins with `where`.
    """
    given = of_kind(values, dict, str(where))
    fields = {field.name: field for field in fields_of(kind)}
    if strange := [name for name in given if name not in fields]:
        close = nearest(mended(str(strange[0])), fields)
        hint = f"did you mean {close}?" if close else "was it written by a later version of blankfill?"
        raise UserError(f"{where}: {shown(strange[0])} is not known; {hint}")
    converted = {}
    for name, field in fields.items():
        if name in given:
            converted[name] = fitting(given[name], field.hint, f"{where}: `{name}`", finite)
        elif field.required:
            raise UserError(f"{where}: `{name}` is missing")
    return kind(**converted)


def fitting(value: Any, hint: Any, where: str, finite: bool = True) -> Any:
    """Convert `value` to the type of an annotation; UserError that begins with `where` otherwise."""
    try:
        return convert(value, hint, finite)
    except MismatchError as error:
        place = "".join(f", {name}" for name in error.path)
        raise UserError(f"{where}{place} {error.sentence}") from None


def _checked(value: Any, right: bool, hint: Any) -> Any:
    if not right:
        raise MismatchError(value, expected(hint))
    return value


def _inside(name: str, value: Any, hint: Any, finite: bool) -> Any:
    try:
        return convert(value, hint, finite)
    except MismatchError as error:
        raise error.inside(name) from None


def _convert_dataclass(value: Any, hint: Any, finite: bool) -> Any:
    if isinstance(value, hint):
        return value
    _checked(value, isinstance(value, Mapping), hint)
    fields = {field.name: field for field in fields_of(hint)}
    for name in value:
        if name not in fields:
            raise MismatchError(value[name], f"left out, since {shown(name)} is not known", (str(name),))
    for name, field in fields.items():
        if field.required and name not in value:
            raise MismatchError(value, f"a section with `{name}`")
    return hint(**{name: _inside(name, item, fields[name].hint, finite) for name, item in value.items()})


def _convert_union(value: Any, hint: Any, finite: bool) -> Any:
    def attempt(part_value: Any, part: Any) -> Any:
        return convert(part_value, part, finite)

    return _first(value, get_args(hint), attempt, hint)


def _first(value: Any, hints: Sequence[Any], attempt: Any, hint: Any) -> Any:
    """Convert with the first type that accepts the value; else raise the mismatch of a type that is not None."""
    errors = []
    for part in hints:
        try:
            return attempt(value, part)
        except MismatchError as error:
            if part is not type(None):
                errors.append(error)
    raise errors[0] if len(errors) == 1 else MismatchError(value, expected(hint))


def _convert_list(value: Any, hint: Any, finite: bool) -> Any:
    _checked(value, isinstance(value, list | tuple), hint)
    item, parts = item_type(hint), get_args(hint)
    if item is None:
        _checked(value, len(value) == len(parts), hint)
        return tuple(
            _inside(str(k), member, part, finite) for k, (member, part) in enumerate(zip(value, parts, strict=True))
        )
    items = [_inside(str(k), member, item, finite) for k, member in enumerate(value)]
    return tuple(items) if get_origin(hint) is tuple else items
