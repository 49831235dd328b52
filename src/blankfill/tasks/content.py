"""What fine-tuning data hold, as a short note that changes when any item does.

Taken of the items and not of the files, so that every file counts that they were read from, whatever the form of the
data, and a file that is packed otherwise or lies elsewhere is still the same data.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from blankfill.tasks.items import Item


def items_mark(items: Sequence[Item], labels: Sequence[str] = ()) -> dict[str, Any]:
    """items: how many there are; content: 32 hex digits that follow from them, their order and the labels."""
    return {"items": len(items), "content": content([list(labels)], map(_values, items))}


def content(*parts: Iterable[Any]) -> str:
    """32 hex digits that follow from values of JSON."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        for value in part:
            state.update(_ENCODE(value).encode() + b"\n")
    return state.hexdigest()


_ENCODE = json.JSONEncoder(sort_keys=True, default=str).encode
_PLAIN = (str, int, float, bool, type(None))


def _values(item: Any) -> Any:
    """Return an item as JSON values, its fields at their defaults left out, so that a new field changes no old note."""
    if isinstance(item, _PLAIN):
        return item
    if isinstance(item, tuple):
        return [_values(part) for part in item]
    if not dataclasses.is_dataclass(item):
        return item
    values: dict[str, Any] = {"is": type(item).__name__}
    kind: Any = type(item)
    for name, default in _defaults(kind):
        value = getattr(item, name)
        if value != default:
            values[name] = _values(value)
    return values


@cache
def _defaults(kind: type[Any]) -> list[tuple[str, Any]]:
    """Return the fields of a dataclass and their defaults."""
    return [
        (field.name, field.default if field.default_factory is dataclasses.MISSING else field.default_factory())
        for field in dataclasses.fields(kind)
    ]
