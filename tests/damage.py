"""Damaged forms of a file, for tests of whatever opens it: cut, flipped, of another encoding, type or depth, no file.

`damaged` yields what a file may hold instead of its content, `replaced` what may stand under its name instead of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

WRONG: tuple[Any, ...] = (None, True, -1, 1e30, 10**18, "x", [], {}, [[]])
"""Values in the place of any other."""
FLIPS = 4
"""Places of a file at which one bit is flipped."""


def damaged(path: Path, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """(what is wrong, the content) for each damaged form of a file."""
    data = path.read_bytes()
    yield "empty", b""
    yield "cut in half", data[: len(data) // 2]
    rng = np.random.default_rng(seed)
    for place in sorted({int(integer) for integer in rng.integers(0, max(1, len(data)), FLIPS)} if data else ()):
        flipped = bytearray(data)
        flipped[place] ^= 1 << int(rng.integers(0, 8))
        yield f"bit flipped in byte {place}", bytes(flipped)
    yield "not UTF-8", b"\xff\xfe caf\xe9\n" + data
    yield "a list", b"[1, 2]"
    yield "a number", b"3"
    yield "a number of 5,000 digits", b"9" * 5000
    yield "100,000 brackets", b"[" * 100_000
    yield "lone surrogate", b'{"a": "\\ud83d"}'
    if path.suffix == ".json":
        yield from damaged_fields(json.loads(data))


def damaged_fields(values: Any) -> Iterator[tuple[str, bytes]]:
    """(what is wrong, JSON) for an object without each of its fields, with a wrong value in it, and with one more."""
    if not isinstance(values, dict):
        return
    for k, name in enumerate(values):
        yield f"without {name}", _json({key: value for key, value in values.items() if key != name})
        wrong = WRONG[k % len(WRONG)] if type(values[name]) is not type(WRONG[k % len(WRONG)]) else [[{}]]
        yield f"{name} is {wrong!r}", _json({**values, name: wrong})
    yield "with one field more", _json({**values, "unheard_of": 1})


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def replaced(path: Path) -> Iterator[str]:
    """Put other things than a file under a name, one after the other; yields what each is, and ends with none there."""
    for what, make in (
        ("a folder", path.mkdir),
        ("a pipe", lambda: os.mkfifo(path)),
        ("a link to a device", lambda: path.symlink_to("/dev/zero")),
        ("a link to nothing", lambda: path.symlink_to("nowhere")),
        ("a link to itself", lambda: path.symlink_to(path.name)),
    ):
        path.unlink(missing_ok=True)
        make()
        yield what
        if path.is_dir() and not path.is_symlink():
            for inside in path.iterdir():
                inside.unlink()
            path.rmdir()
    path.unlink(missing_ok=True)
