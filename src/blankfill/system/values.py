"""Dataclasses from the plain values of a file, each field checked against its annotation.

What a program wrote itself may come back damaged, from another version or from a stranger. Here a field that is unknown
or missing, or holds a value of another type, is a UserError of one sentence that names the file and the field, so that
nothing of a wrong type travels on. Ranges are the business of each class (`problems`).
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from blankfill.errors import UserError
from blankfill.system.reading import of_kind, shown

T = TypeVar("T")


def build(kind: type[T], values: object, where: object, finite: bool = True) -> T:
    """An instance of a dataclass from an object of JSON values, lists becoming tuples where those are declared.

    where: the file, and the field when the object stands in one. finite: refuse numbers that are not. Fields with a
    default may be missing. Raises UserError.
    """
    given = of_kind(values, dict, str(where))
    fields = [field for field in dataclasses.fields(kind) if field.init]  # type: ignore[arg-type]
    if unknown := [name for name in given if name not in {field.name for field in fields}]:
        raise UserError(f"{where}: {shown(unknown[0])} is not known; was it written by a later version of blankfill?")
    hints = get_type_hints(kind)
    made = {}
    for field in fields:
        if field.name in given:
            made[field.name] = fitting(given[field.name], hints[field.name], f"{where}: `{field.name}`", finite)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(f"{where}: `{field.name}` is missing")
    return kind(**made)


def fitting(value: Any, hint: Any, where: str, finite: bool = True) -> Any:
    """`value` as the type that an annotation names; see `build`. Raises UserError that begins with `where`."""
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any or hint is object:
        return value
    if hint is None or hint is type(None):
        return of_kind(value, type(None), where)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where, finite)  # type: ignore[arg-type]
    if origin is Literal:
        if not any(value == one and type(value) is type(one) for one in parts):
            raise UserError(f"{where} is {shown(value)}; it must be one of {', '.join(map(str, parts))}")
        return value
    if origin in (Union, types.UnionType):
        return _one_of(value, parts, where, finite)
    if origin is tuple:
        return _tuple(value, parts, where, finite)
    if origin in (list, Sequence):
        return [fitting(one, parts[0], where, finite) for one in of_kind(value, list, where)]
    if origin in (dict, Mapping):
        found = of_kind(value, dict, where)
        return {name: fitting(one, parts[1], f"{where}, {shown(name)}", finite) for name, one in found.items()}
    found = of_kind(value, origin or hint, where)
    if finite and isinstance(found, float) and not math.isfinite(found):
        raise UserError(f"{where} is {found}, where a finite number is expected")
    return found


def spelled(text: str, hint: Any, where: str) -> Any:
    """A value that is written as text, as on a command line: a number, true or false, one of some words, or a text.

    Raises UserError that begins with `where` for anything else than the annotation names, and for annotations of more
    than one value.
    """
    if hint is str:
        return text
    if get_origin(hint) is Literal:
        named = {str(one): one for one in get_args(hint)}
        if text not in named:
            raise UserError(f"{where} is {shown(text)}; it must be one of {', '.join(named)}")
        return named[text]
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise UserError(f"{where} is {shown(text)}; it must be true or false")
        return text.lower() == "true"
    if hint not in (int, float):
        raise UserError(f"{where} cannot be given as one value")
    try:
        return hint(text)
    except ValueError:
        kind = "a whole number" if hint is int else "a number"
        raise UserError(f"{where} is {shown(text)}; it must be {kind}") from None


def _one_of(value: Any, hints: Sequence[Any], where: str, finite: bool) -> Any:
    first: UserError | None = None
    for hint in hints:
        try:
            return fitting(value, hint, where, finite)
        except UserError as error:
            first = first or error
    assert first is not None
    raise first


def _tuple(value: Any, parts: Sequence[Any], where: str, finite: bool) -> tuple[Any, ...]:
    given = of_kind(list(value) if isinstance(value, tuple) else value, list, where)
    if len(parts) == 2 and parts[1] is Ellipsis:
        return tuple(fitting(one, parts[0], where, finite) for one in given)
    if len(given) != len(parts):
        raise UserError(f"{where} has {len(given)} values where {len(parts)} are expected")
    return tuple(fitting(one, part, where, finite) for one, part in zip(given, parts, strict=True))
