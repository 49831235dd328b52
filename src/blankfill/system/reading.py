"""Small files of ours and of others, read with limits: text, JSON, JSON Lines, YAML.

A file may come from a stranger, be damaged, or be no file at all. So each is checked to be a regular file of a sane
size before it is read (a pipe would hang, a device would fill the memory), to be UTF-8, to be nested no deeper than the
parser can go, and to hold values of the types that are asked for. Whatever is wrong is a UserError of one sentence that
names the file and, where there is one, the line or the field.

Not here: corpora of any size (`corpus`), weights (`checkpoint`).
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

from blankfill.errors import UserError

T = TypeVar("T")

SMALL = 64 << 20
"""Bytes of a file of settings, an index or a vocabulary at most."""
LARGE = 4 << 30
"""Bytes of a file that grows with a run or a data set, and is read at once, at most."""
LINE = 16 << 20
"""Characters of one line of JSON Lines at most."""
MOST_NODES = 1_000_000
"""Values in a YAML file at most, counted where aliases repeat them."""

NAMES: dict[type, str] = {
    dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a number", bool: "true or false",
    type(None): "null",
}  # fmt: skip
KINDS = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip


class UnreadableError(UserError):
    """A file that is missing, is not a regular file, or cannot be opened; `missing` tells the first from the others."""

    def __init__(self, message: str, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing

    def __reduce__(self) -> tuple[type[UnreadableError], tuple[str, bool]]:
        return (type(self), (str(self), self.missing))


def regular_size(path: Path) -> int:
    """The size of a regular file in bytes; UnreadableError for everything else that may stand under a name."""
    try:
        found = path.stat()
    except FileNotFoundError:
        link = f"is a link to {path.readlink()}, which does not exist" if path.is_symlink() else "does not exist"
        raise UnreadableError(f"{path} {link}", missing=True) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in a name
        raise UnreadableError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for test, name in KINDS if test(found.st_mode)), "no regular file")
        raise UnreadableError(f"{path} is {kind}; give a regular file")
    return found.st_size


def read_bytes(path: Path, limit: int = SMALL) -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises UnreadableError, UserError for a larger one."""
    size = regular_size(path)
    if size > limit:
        raise UserError(f"{path} has {size:,} bytes, and {limit:,} are the most that such a file may have")
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read ({error.strerror or error})") from error
    if len(data) > limit:  # it grew, or its size is not known beforehand, as in /proc
        raise UserError(f"{path} has more than {limit:,} bytes, the most that such a file may have")
    return data


def read_text(path: Path, limit: int = SMALL) -> str:
    """The text of a UTF-8 file, without a byte-order mark; UserError with the line of a byte that is not UTF-8."""
    data = read_bytes(path, limit)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}, is not UTF-8 (byte {error.start:,}); save it as UTF-8") from error


@overload
def read_json(path: Path, kind: type[dict[str, Any]] = ..., limit: int = ...) -> dict[str, Any]: ...
@overload
def read_json(path: Path, kind: type[T], limit: int = ...) -> T: ...
def read_json(path: Path, kind: type[Any] = dict, limit: int = SMALL) -> Any:
    """The value of a JSON file, which must be of type `kind`. Raises UserError; UnreadableError when it is missing."""
    text = read_text(path, limit)
    if not text.strip():
        raise UserError(f"{path} is empty, where JSON is expected")
    return parse_json(text, path, kind)


@overload
def parse_json(text: str, where: object, kind: type[dict[str, Any]] = ...) -> dict[str, Any]: ...
@overload
def parse_json(text: str, where: object, kind: type[T]) -> T: ...
def parse_json(text: str, where: object, kind: type[Any] = dict) -> Any:
    """The value that a JSON text holds; UserError that begins with `where` when it is none, or not a `kind`.

    kind: dict, list, str, int, float, bool, or object for any value.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise UserError(f"{where}: the JSON is nested too deeply to be read") from None
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if "\n" in text.strip() else ""
        raise UserError(f"{where}{line}: not JSON ({error.msg}, column {error.colno})") from error
    except ValueError as error:  # Python refuses whole numbers of more than 4,300 digits
        raise UserError(f"{where}: the JSON holds a number of too many digits") from error
    return of_kind(value, kind, str(where))


def of_kind(value: Any, kind: type[T], where: str) -> T:
    """`value` when it is a `kind` (a whole number passes for a float, a truth value never for a number).

    Raises UserError that begins with `where`.
    """
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)  # type: ignore[return-value]
        except OverflowError:
            raise UserError(f"{where}: the number is too large") from None
    if kind is object or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool))):
        return value
    found = NAMES.get(type(value), type(value).__name__)
    raise UserError(f"{where}: {found} stands where {NAMES.get(kind, kind.__name__)} is expected")


_REQUIRED: Any = object()


def field(values: Mapping[str, Any], name: str, kind: type[T], where: object, default: T = _REQUIRED) -> T:
    """The value under `name` in an object that was read from `where`, which must be a `kind`.

    default: for a missing name; without one it is an error. A float must be finite. Raises UserError.
    """
    if name not in values:
        if default is _REQUIRED:
            raise UserError(f"{where}: `{name}` is missing")
        return default
    value = of_kind(values[name], kind, f"{where}: `{name}`")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: `{name}` is {value}, where a finite number is expected")
    return value


def read_json_lines(path: Path, limit: int = LARGE) -> tuple[list[dict[str, Any]], int]:
    """The objects of a JSON Lines file that informs only, and the number of lines that are none.

    Bad bytes become U+FFFD, bad lines (also a last one that was cut) are passed over and counted; a missing file has
    none. Raises UnreadableError for what is no regular file.
    """
    try:
        data = read_bytes(path, limit)
    except UnreadableError as error:
        if error.missing:
            return [], 0
        raise
    found: list[dict[str, Any]] = []
    bad = 0
    # not splitlines(): it also cuts at U+2028 and its like, which stand unescaped inside texts
    for line in data.decode("utf-8", "replace").split("\n"):
        if not line.strip():
            continue
        try:
            found.append(parse_json(line[: LINE + 1], path))
        except UserError:
            bad += 1
    return found, bad


def parse_yaml(text: str, where: object) -> Any:
    """The value of a YAML text of plain values; UserError with the line when it is none.

    Aliases are followed, but not where they repeat each other into more than a million values.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        node = yaml.compose(text, loader)
        if node is not None and _expanded(node, {}) > MOST_NODES:
            raise UserError(f"{where}: the YAML has aliases that repeat more than {MOST_NODES:,} values")
        return yaml.load(text, loader)
    except RecursionError:
        raise UserError(f"{where}: the YAML is nested too deeply to be read") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise UserError(f"{where}{line}: not valid YAML ({getattr(error, 'problem', None) or error})") from error
    except (ValueError, OverflowError) as error:  # a date that is none, a number of 5,000 digits
        reason = str(error).split(";")[0]
        raise UserError(f"{where}: the YAML holds a value that cannot be read ({reason})") from error


def _expanded(node: Any, known: dict[int, int]) -> int:
    """The number of values below a node of a YAML document, what aliases repeat counted each time."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MOST_NODES + 1  # until it is known: what holds itself has no end
    children = node.value if isinstance(node.value, list) else []
    parts = [part for child in children for part in (child if isinstance(child, tuple) else (child,))]
    total = 1 + sum(_expanded(part, known) for part in parts)
    known[id(node)] = total
    return total
