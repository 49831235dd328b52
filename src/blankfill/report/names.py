"""Names in place of paths: a page is shown to others, and the paths of a machine contain names of users and folders.

An absolute path becomes the name of its file or folder. Not here: the texts of a corpus, which stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_END = r"\s'\"«»`<>|;,()\[\]{}"
"""Characters that end a path inside a sentence, as the content of a class of a regular expression."""
_INSIDE = re.compile(
    rf"(?:file://[^/{_END}]*)?(?<![\w:/.<~\\-])/(?:[^/{_END}]+/)+[^/{_END}]*"
    rf"|(?<![\w:/.<~\\-])~[\w.-]*/(?:[^/{_END}]+/)*[^/{_END}]+"
    rf"|(?<!\w)[A-Za-z]:[\\/](?:[^\\/{_END}]+[\\/])*[^\\/{_END}]*"
    rf"|(?<![\w\\])\\\\(?:[^\\{_END}]+\\)+[^\\{_END}]*"
)
"""A path of two parts or more: /home/ann/texts, ~/texts/a, C:\\texts, \\\\host\\texts."""
_QUOTED = re.compile(r"(['\"«])((?:/|~|[A-Za-z]:[\\/]|\\\\)(?=[^'\"«»\n/\\]*[/\\])[^'\"«»\n]*)(['\"»])")
_WHOLE = re.compile(r"(?:file://[^/]*)?(?:/|~|[A-Za-z]:[\\/]|\\\\)[^\n<>|:]*")
_PARTS = re.compile(r"[\\/]+")


def without_paths(text: str) -> str:
    """Return a text with the name of a file or a folder in place of each absolute path."""
    home = _home()
    if len(home) > 1 and home in text:  # with a space in it, where a path ends cannot be seen
        text = re.sub(rf"{re.escape(home)}(?=[/\\])", "~", text)
    if _WHOLE.fullmatch(text) and text.strip("/\\"):
        return _name(text)
    text = _QUOTED.sub(lambda match: f"{match[1]}{_name(match[2])}{match[3]}", text)
    return _INSIDE.sub(lambda match: _name(match[0]), text)


def without_paths_in(value: T) -> T:
    """Return a value of JSON without absolute paths in its texts and keys."""
    changed: Any = value
    if isinstance(value, str):
        changed = without_paths(value)
    elif isinstance(value, Mapping):
        changed = {without_paths_in(key): without_paths_in(item) for key, item in value.items()}
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        changed = [without_paths_in(item) for item in value]
        changed = tuple(changed) if isinstance(value, tuple) else changed
    result: T = changed
    return result


def _home() -> str:
    """Return the home of the user, "" for one who has none."""
    try:
        return str(Path.home()).rstrip("/\\")
    except RuntimeError:
        return ""


def _name(path: str) -> str:
    """Return the last part of a path, with the punctuation behind it."""
    bare = path.rstrip(".:!?")
    return (_PARTS.split(bare.rstrip("/\\"))[-1] or "/") + path[len(bare) :]
