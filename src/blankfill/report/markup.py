"""Writes values as HTML. Texts of a run come from anywhere, so every text is escaped here.

Not here: the content of the page (`page`, `sections`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from blankfill.system.console import visible

LANGUAGES = (("ja", "\u3040-\u30ff"), ("ko", "\uac00-\ud7af"), ("zh", "\u3400-\u9fff"))
"""Languages that share characters but not their shapes, with characters that identify each."""


def tag(name: str, text: object, **attributes: str) -> str:
    """Return an element that holds text. `kind` is the attribute `class`, a reserved word of Python."""
    return f"<{name}{attributes_of(attributes)}>{escape(visible(str(text)))}</{name}>"


def said(name: str, text: str, **attributes: str) -> str:
    """Return an element that holds a text of the run, marked with its language."""
    return tag(name, text, **attributes, **language_of(text))


def attributes_of(values: Mapping[str, str]) -> str:
    """Return attributes for a tag, each after a space; empty attributes are left out."""
    return "".join(
        f' {"class" if key == "kind" else key}="{escape(visible(value))}"' for key, value in values.items() if value
    )  # fmt: skip


def language_of(text: str) -> dict[str, str]:
    """Return the attributes that help a browser to set a text: its direction, and its language where that affects
    glyphs."""
    language = next((name for name, span in LANGUAGES if re.search(f"[{span}]", text)), "")
    return {"dir": "auto", "lang": language}


def embedded(value: Any) -> str:
    """Return JSON that is safe inside a script element, whatever texts it holds. Raises ValueError for NaN."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def pairs(values: Iterable[tuple[str, object]], defaults: Mapping[str, object] | None = None) -> str:
    """Return names and values, one line each. defaults: those of values that differ from them, by name."""
    lines = (_pair(name, value, defaults or {}) for name, value in values)
    return f'<dl class="pairs">{"".join(lines)}</dl>'


def _pair(name: str, value: object, defaults: Mapping[str, object]) -> str:
    """Return a name and its value, with a mark and the default where the value differs from it."""
    if name not in defaults:
        return f"<div>{tag('dt', name)}{said('dd', plain(value))}</div>"
    before = tag("span", f"default {plain(defaults[name])}", kind="note")
    language = attributes_of(language_of(plain(value)))
    changed = f"<dd{language}>{tag('b', plain(value))} {before}</dd>"
    return f'<div class="changed">{tag("dt", name)}{changed}</div>'


def panels(values: Mapping[str, Any], alone: str, defaults: Mapping[str, Mapping[str, object]] | None = None) -> str:
    """Return a panel for each mapping in `values`, and a panel called `alone` for the other values. Keys are shown
    unchanged, as the options of a recipe are typed. defaults: those of changed values, by title and key.
    """
    single = {key: value for key, value in values.items() if not isinstance(value, dict)}
    groups = {alone: single, **{key: value for key, value in values.items() if isinstance(value, dict)}}
    return "".join(
        panel(str(title), pairs(((str(key), value) for key, value in group.items()), (defaults or {}).get(str(title))))
        for title, group in groups.items()
        if group
    )


def panel(title: str, body: str) -> str:
    """Return a framed part of the page; `body` is HTML."""
    return f'<div class="panel">{tag("h3", title) if title else ""}{body}</div>'


def plain(value: object) -> str:
    """Return a value of JSON or YAML in readable form."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
