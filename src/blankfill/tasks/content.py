"""A digest of fine-tuning data, which changes when any item changes.

It covers items and not files, so that it includes all files of the data in any format, and a file that is moved or
compressed differently is still the same data.
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
    """Return the number of items, and a digest of 32 hex digits of the items, their order and the labels."""
    return {"items": len(items), "content": content([list(labels)], map(_values, items))}


def content(*parts: Iterable[Any]) -> str:
    """Return a digest of JSON values, 32 hex digits."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        for value in part:
            state.update(_ENCODE(value).encode() + b"\n")
    return state.hexdigest()


_ENCODE = json.JSONEncoder(sort_keys=True, default=str).encode
_PLAIN = (str, int, float, bool, type(None))


def _values(item: Any) -> Any:
    """Return an item as JSON values without fields at their defaults, so that a new field changes no old digest."""
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
