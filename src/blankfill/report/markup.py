"""Values as HTML. Texts of a run come from anywhere, so every one of them is escaped here, whatever it holds.

Not here: what the page says (`page`, `sections`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from blankfill.system.console import visible

LANGUAGES = (("ja", "\u3040-\u30ff"), ("ko", "\uac00-\ud7af"), ("zh", "\u3400-\u9fff"))
"""Languages that share characters but not their shapes, by the characters that give each away."""


def tag(name: str, text: object, **attributes: str) -> str:
    """Return an element that holds text. The attribute `class` is given as `kind`, since Python keeps that word."""
    return f"<{name}{attributes_of(attributes)}>{escape(visible(str(text)))}</{name}>"


def said(name: str, text: str, **attributes: str) -> str:
    """Return an element that holds a text of the run, in whatever language that is."""
    return tag(name, text, **attributes, **language_of(text))


def attributes_of(values: Mapping[str, str]) -> str:
    """Attributes as they stand in a tag, a space before each; empty ones are left out."""
    return "".join(
        f' {"class" if key == "kind" else key}="{escape(visible(value))}"' for key, value in values.items() if value
    )  # fmt: skip


def language_of(text: str) -> dict[str, str]:
    """Return the attributes that let a browser set a text of the run: its direction, and its language where that
    matters."""
    found = next((name for name, span in LANGUAGES if re.search(f"[{span}]", text)), "")
    return {"dir": "auto", "lang": found}


def embedded(value: Any) -> str:
    """JSON that may stand inside a script element, whatever texts it holds. Raises ValueError for NaN."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def pairs(values: Iterable[tuple[str, object]]) -> str:
    """Names and values, one line each."""
    lines = (f"<div>{tag('dt', name)}{said('dd', plain(value))}</div>" for name, value in values)
    return f'<dl class="pairs">{"".join(lines)}</dl>'


def panels(values: Mapping[str, Any], alone: str) -> str:
    """Values nested one level: a panel for each mapping, and one called `alone` for what stands in none.

    Keys are shown as they are, since the options of a recipe are typed so.
    """
    single = {key: value for key, value in values.items() if not isinstance(value, dict)}
    groups = {alone: single, **{key: value for key, value in values.items() if isinstance(value, dict)}}
    return "".join(
        panel(str(title), pairs((str(key), value) for key, value in group.items()))
        for title, group in groups.items()
        if group
    )


def panel(title: str, body: str) -> str:
    """Return a framed part of the page; `body` is HTML."""
    return f'<div class="panel">{tag("h3", title) if title else ""}{body}</div>'


def plain(value: object) -> str:
    """Return a value of JSON or YAML as a reader expects it."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
