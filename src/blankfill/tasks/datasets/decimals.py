"""Numbers with a decimal comma, as spreadsheets write them in most of Europe."""

from __future__ import annotations

import re
from typing import Any

_COMMA = re.compile(r"\s*([+-]?\d+),(\d+)\s*")


def with_point(value: Any) -> Any:
    """Return a cell with a point for its decimal comma; other cells, and ambiguous ones, as they are."""
    match = _COMMA.fullmatch(value) if isinstance(value, str) else None
    return f"{match[1]}.{match[2]}" if match and not is_ambiguous(value) else value


def is_ambiguous(value: Any) -> bool:
    """Return whether the comma of a number may separate thousands as well: "1,234", but not "0,234" or "12,5"."""
    match = _COMMA.fullmatch(value) if isinstance(value, str) else None
    return match is not None and len(match[2]) == 3 and match[1].lstrip("+-")[0] != "0" and len(match[1]) <= 4
