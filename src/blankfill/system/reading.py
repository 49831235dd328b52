"""Reads small files with limits: text, JSON, JSON Lines, YAML, arrays.

A file may come from a stranger, be damaged, or not be a regular file. So each is checked before and while it is read:
a regular file (a pipe would hang, a device would fill the memory) of a sane size, valid UTF-8, nested no deeper than
the parser can go, with values of the requested types. Every problem is a UserError of one sentence that names the file
and, if possible, the line or the field.

Not here: corpora of any size (`corpus`), weights (`checkpoint`).
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, overload

from blankfill.errors import UserError

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")

SMALL = 64 << 20
"""Largest size in bytes of a file of settings, an index or a vocabulary."""
LARGE = 1 << 30
"""Largest size in bytes of a file that grows with a vocabulary or a data set and is read at once."""
LINE = 16 << 20
"""Largest size in bytes of one line of JSON Lines."""
LONGEST_NAME = 255
"""Largest size in bytes of a file name that file systems allow."""
NAME = 4096
"""Largest size in bytes of a file that holds only a name or a path."""
MOST_NODES = 1_000_000
"""Largest number of values in a YAML file, with aliases expanded."""

NAMES: dict[type, str] = {
    dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a number", bool: "true or false",
    type(None): "null",
}  # fmt: skip
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
"""Half of a pair of UTF-16, which an escape in JSON can name and no UTF-8 can write."""
MAY_BE_LONE = re.compile(r"\\u[dD][89a-fA-F]")
"""The beginning of such an escape."""
KINDS = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip


class UnreadableError(UserError):
    """A file is missing, is not a regular file, or cannot be opened; `missing` is true for the first."""

    def __init__(self, message: str, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing

    def __reduce__(self) -> tuple[type[UnreadableError], tuple[str, bool]]:
        return (type(self), (self.template, self.missing))


def regular_size(path: Path) -> int:
    """Return the size of a regular file in bytes. Raises UnreadableError for anything else."""
    try:
        status = path.stat()
    except FileNotFoundError:
        link = f"is a link to {path.readlink()}, which does not exist" if path.is_symlink() else "does not exist"
        raise UnreadableError(f"{path} {link}", missing=True) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in a name
        raise UnreadableError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for test, name in KINDS if test(status.st_mode)), "no regular file")
        raise UnreadableError(f"{path} is {kind}; give a regular file")
    return status.st_size


STAND_IN = 512
"""Bytes at the beginning of a file that show what it is."""
POINTER, PAGE = "a pointer of Git LFS", "a web page (HTML)"
_POINTER = b"version https://git-lfs"
_PAGE = re.compile(
    rb"(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<(!doctype\s+html|html|head)\b", re.IGNORECASE | re.DOTALL
)


def stand_in(path: Path) -> str:
    """Return what a file is that was stored in place of a file of a model, as a sentence with the remedy, or "".

    Git stores a pointer where Git LFS is not set up; browsers and download tools save the page about a file, or the
    page of an error.
    """
    try:
        regular_size(path)  # a pipe would hang
        with open(path, "rb") as file:
            beginning = file.read(STAND_IN)
    except (OSError, UnreadableError):
        return ""
    what = substitute(beginning)
    remedies = {
        POINTER: "run `git lfs pull` in its folder, or download the file from where it was cloned",
        PAGE: "download the file by its own link",
    }
    return f"{path} is {what} and not the file itself; {remedies[what]}" if what else ""


def substitute(head: bytes) -> str:
    """Return what a file is, by its first bytes, that is stored in place of another: `POINTER`, `PAGE`, or ""."""
    return POINTER if head.startswith(_POINTER) else PAGE if _PAGE.match(head) else ""


def refuse_stand_in(path: Path) -> None:
    """Raise UserError for a file that was stored in place of a file of a model; see `stand_in`."""
    if sentence := stand_in(path):
        raise UserError(sentence)


def read_bytes(path: Path, limit: int = SMALL) -> bytes:
    """Return the content of a regular file of at most `limit` bytes. Raises UnreadableError, UserError for a larger
    one."""
    size = regular_size(path)
    if size > limit:
        raise UserError(f"{path} has {size:,} bytes, and {limit:,} are the most that such a file may have")
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read ({error.strerror or error})") from error
    if len(data) > limit:  # the file grew, or its size is unknown in advance, as in /proc
        raise UserError(f"{path} has more than {limit:,} bytes, the most that such a file may have")
    return data


def read_text(path: Path, limit: int = SMALL) -> str:
    """Return the text of a UTF-8 file, without a byte-order mark; UserError with the line of a byte that is not
    UTF-8."""
    data = read_bytes(path, limit)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}, is not UTF-8 (byte {error.start:,}); save it as UTF-8") from error


def read_path(path: Path) -> str:
    """Return the path that a file holds, such as a run's `corpus_path.txt`. Raises UserError when it holds anything
    else."""
    text = read_text(path, NAME).strip()
    if not text or any(ord(character) < 32 for character in text):
        raise UserError(f"{path} is {'damaged' if text else 'empty'}, where one line with a path is expected")
    return text


def read_name(path: Path) -> str:
    """Return the name of a folder or file that a file such as `latest` beside it holds.

    Raises UserError for a path, which in a folder from elsewhere could lead out of it.
    """
    name = read_path(path)
    if not is_plain_name(name):
        raise UserError(f"{path} holds {shown(name)}, where the plain name of a folder is expected")
    return name


def is_plain_name(name: str) -> bool:
    """Return whether a text is the plain name of a file or folder: not a path, and allowed by file systems."""
    short = 0 < len(name.encode("utf-8", "surrogatepass")) <= LONGEST_NAME
    return short and name.isprintable() and Path(name).name == name and "\\" not in name and name != ".."


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn disk errors while a file is read without this module into an UnreadableError."""
    try:
        yield
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read ({error.strerror or error})") from error


def read_array(path: Path, kind: str, dimensions: int, mapped: bool = False) -> np.ndarray:
    """Return the array of a `.npy` file, without unpickling.

    kind: numpy's letters of the allowed types, such as "iu" for whole numbers. mapped: memory-map the file. Raises
    UserError when the file is damaged or holds another kind of array; UnreadableError when it is missing.
    """
    import numpy as np

    if not regular_size(path):
        raise UserError(f"{path} is empty, where an array is expected")
    try:
        # map it first, so that a size larger than the file is refused before memory is allocated
        array = np.load(path, "r", allow_pickle=False)
    except PermissionError as error:
        raise UnreadableError(f"{path} cannot be read ({error.strerror})") from error
    except Exception as error:  # the header is a Python literal, and numpy raises many kinds of errors from it
        raise UserError(f"{path} is not a whole array file of numpy (.npy); make it again or copy it again") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in kind or array.ndim != dimensions:
        description = f"{array.dtype}{list(array.shape)}" if isinstance(array, np.ndarray) else "an archive"
        raise UserError(
            f"{path} holds {description}, which is not the expected kind of array; make it again or copy it again"
        )
    return array if mapped else np.array(array)


@overload
def read_json(path: Path, kind: type[dict[str, Any]] = ..., limit: int = ...) -> dict[str, Any]: ...
@overload
def read_json(path: Path, kind: type[T], limit: int = ...) -> T: ...
def read_json(path: Path, kind: type[Any] = dict, limit: int = SMALL) -> Any:
    """Return the value of a JSON file, which must be of type `kind`. Raises UserError; UnreadableError when it is
    missing."""
    try:
        text = read_text(path, limit)
        if not text.strip():
            raise UserError(f"{path} is empty, where JSON is expected")
        return parse_json(text, path, kind)
    except UserError:
        refuse_stand_in(path)
        raise


@overload
def parse_json(text: str, where: object, kind: type[dict[str, Any]] = ...) -> dict[str, Any]: ...
@overload
def parse_json(text: str, where: object, kind: type[T]) -> T: ...
def parse_json(text: str, where: object, kind: type[Any] = dict) -> Any:
    """Return the value of a JSON text. Raises UserError that begins with `where` for invalid JSON and for another kind.

    kind: dict, list, str, int, float, bool, or object for any value.
    """
    try:
        value = json.loads(text)
        if MAY_BE_LONE.search(text):
            value = mended_value(value)
    except RecursionError:
        raise UserError(f"{where}: the JSON is nested too deeply to be read") from None
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if "\n" in text.strip() else ""
        raise UserError(f"{where}{line}: not JSON ({error.msg}, column {error.colno})") from error
    except ValueError as error:  # Python refuses whole numbers of more than 4,300 digits
        raise UserError(f"{where}: the JSON holds a number of too many digits") from error
    return of_kind(value, kind, str(where))


def of_kind(value: Any, kind: type[T], where: str) -> T:
    """Return `value` when it is a `kind` (a whole number passes for a float, a boolean never for a number).

    Raises UserError that begins with `where`.
    """
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)  # type: ignore[return-value]
        except OverflowError:
            raise UserError(f"{where}: the number is too large") from None
    if kind is object or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool))):
        result: T = value
        return result
    actual = NAMES.get(type(value), type(value).__name__)
    raise UserError(f"{where}: {actual} where {NAMES.get(kind, kind.__name__)} is expected")


def shown(value: object, most: int = 60) -> str:
    """Return a value from a file for a message: its repr, shortened where it is long."""
    text = repr(value[: 2 * most] if isinstance(value, str) else value)
    return text if len(text) <= most else f"{text[:most]}…"


def mended(text: str) -> str:
    """Return a text with U+FFFD for each lone surrogate."""
    return text if text.isascii() else LONE_SURROGATE.sub("\ufffd", text)


def mended_value(value: Any) -> Any:
    """Return a JSON value with `mended` texts and names."""
    if isinstance(value, str):
        return mended(value)
    if isinstance(value, list):
        return [mended_value(item) for item in value]
    if isinstance(value, dict):
        return {mended(key): mended_value(item) for key, item in value.items()}
    return value


_REQUIRED: Any = object()


def field(values: Mapping[str, Any], name: str, kind: type[T], where: object, default: T = _REQUIRED) -> T:
    """Return the value under `name` in an object that was read from `where`, which must be a `kind`.

    default: for a missing name; without a default, a missing name is an error. A float must be finite. Raises
    UserError.
    """
    if name not in values:
        if default is _REQUIRED:
            raise UserError(f"{where}: `{name}` is missing")
        return default
    value = of_kind(values[name], kind, f"{where}: `{name}`")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: `{name}` is {value}, where a finite number is expected")
    return value


def read_json_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the objects of a JSON Lines file that is only informative, and the number of damaged lines.

    Bad bytes become U+FFFD. Lines that hold no object are skipped and counted; a last line without an end, which a
    killed process leaves, is skipped without being counted. A missing file has no objects. Raises UnreadableError for a
    file that is not regular.
    """
    try:
        regular_size(path)
    except UnreadableError as error:
        if error.missing:
            return [], 0
        raise
    lines, unfinished, too_long = _lines(path)
    value: Any = None
    with suppress(
        ValueError, RecursionError
    ):  # parsing all lines at once is a third faster, and a long run has many lines
        value = json.loads(f"[{','.join(lines)}]")
        if any(map(MAY_BE_LONE.search, lines)):
            value = mended_value(value)
    if not isinstance(value, list) or len(value) != len(lines):
        value = [_object(line) for line in lines]
    objects = [item for item in value if isinstance(item, dict)]
    last = _object(unfinished)
    return [*objects, *([] if last is None else [last])], too_long + len(lines) - len(objects)


def _lines(path: Path) -> tuple[list[str], str, int]:
    """Return the non-empty lines of a file, the text after the last line end, and the number of lines that are too
    long."""
    lines, unfinished, too_long = [], "", 0
    with readable(path), open(path, "rb") as file:
        # not splitlines(): it also cuts at U+2028 and similar characters, which texts contain unescaped
        while data := file.readline(LINE):
            if len(data) == LINE and not data.endswith(b"\n"):
                too_long += 1
                while data and not data.endswith(b"\n"):
                    data = file.readline(LINE)
                continue
            text = data.decode("utf-8", "replace")
            if not text.endswith("\n"):
                unfinished = text
            elif text.strip():
                lines.append(text.rstrip("\n"))
    return lines, unfinished, too_long


def _object(line: str) -> dict[str, Any] | None:
    try:
        return parse_json(line, "")
    except UserError:
        return None


NUMBER = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+")
"""A number with an exponent, such as 3e-4: YAML 1.1 takes it for a text where it has no point or no sign."""


def parse_yaml(text: str, where: object, texts: bool = False) -> Any:
    """Return the value of a YAML text of plain values; UserError with the line when it is none.

    Aliases are followed, but not where they repeat each other into more than a million values. A name that is given
    twice is an error, 3e-4 a number, and a date a text. texts: every scalar is a text, so that the word Yes is no truth
    value.
    """
    import yaml

    loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader) if texts else _settings_loader()
    with yaml_errors(where, text):
        node = yaml.compose(text, loader)
        if node is not None and _expanded(node, {}) > MOST_NODES:
            raise UserError(f"{where}: the YAML has aliases that repeat more than {MOST_NODES:,} values")
        if node is not None and (twice := _given_twice(node, set())) is not None:
            line = twice.start_mark.line + 1
            raise UserError(f"{where}, line {line}: {shown(twice.value)} is given twice; leave one of them out")
        return yaml.load(text, loader)


@lru_cache(maxsize=1)
def _settings_loader() -> Any:
    """Return PyYAML's loader of plain values, with common notations of numbers and without dates."""
    import yaml

    plain: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class SettingsLoader(plain):
        yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
            first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
            for first, resolvers in plain.yaml_implicit_resolvers.items()
        }

    SettingsLoader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^{NUMBER.pattern}$"), "-+.0123456789")
    return SettingsLoader


def _given_twice(node: Any, seen: set[int]) -> Any:
    """Return the second of two equal names in one mapping of a YAML document; None when there is none."""
    if id(node) in seen or not isinstance(node.value, list):
        return None
    seen.add(id(node))
    names: set[Any] = set()
    for child in node.value:
        parts = child if isinstance(child, tuple) else (child,)
        if isinstance(child, tuple):
            name = child[0].value if isinstance(child[0].value, str) else None
            if name is not None and name != "<<" and name in names:
                return child[0]
            names.add(name)
        for part in parts:
            if (twice := _given_twice(part, seen)) is not None:
                return twice
    return None


@contextmanager
def yaml_errors(where: object, text: str) -> Iterator[None]:
    """Turn the errors of a YAML parser that reads `text` into a UserError that begins with `where`."""
    import yaml

    try:
        yield
    except RecursionError:
        raise UserError(f"{where}: the YAML is nested too deeply to be read") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {min(mark.line, text.rstrip().count(chr(10))) + 1}" if mark is not None else ""
        reason = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise UserError(f"{where}{line}: not valid YAML ({reason})") from error
    except (ValueError, OverflowError, TypeError) as error:  # an invalid date, 5,000 digits, a list as a name
        reason = str(error).split(";")[0]
        raise UserError(f"{where}: the YAML holds a value that cannot be read ({reason})") from error


def _expanded(node: Any, known: dict[int, int]) -> int:
    """Return the number of values below a node of a YAML document, with aliases expanded."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MOST_NODES + 1  # until the number is known: a node that contains itself is infinite
    children = node.value if isinstance(node.value, list) else []
    parts = [part for child in children for part in (child if isinstance(child, tuple) else (child,))]
    total = 1 + sum(_expanded(part, known) for part in parts)
    known[id(node)] = total
    return total
