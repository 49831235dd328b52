"""Assembles the single file of a report page: headline and sections in a frame, with style, script and numbers inside.

Its content security policy refuses every request, and every script except that of the page, so that a text of the run
could not run code even if it passed the escaping.

Not here: the content of a page (`page`, `tuned_page`, `several_page`), the parts of a page (`sections`, `markup`).

"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from importlib import resources
from typing import Any

from blankfill._version import __version__
from blankfill.report.markup import embedded

SCRIPTS = ("numbers", "curves", "samples", "live")
"""The script of a page, in parts."""
NOTHING_DRAWN: dict[str, Any] = {"splits": {}, "charts": [], "events": []}
"""Input of the script on a page without curves."""


def document(
    title: str,
    headline: str,
    parts: Mapping[str, str],
    now: datetime,
    data: Mapping[str, Any] = NOTHING_DRAWN,
    scripts: Sequence[str] = SCRIPTS,
    styles: Sequence[str] = ("page",),
) -> str:
    """Return the HTML of a page. parts: the content of each section by its name; empty sections are left out. data: for
    the script. now: the time shown on the page. scripts, styles: parts of the script, and style sheets.
    """
    there = {name: body for name, body in parts.items() if body}
    ids = {name: name.lower().replace(" ", "-") for name in there}
    links = "".join(f'<a href="#{ids[name]}">{escape(name)}</a>' for name in there)
    script = "".join(shipped(f"page_{part}.js") for part in scripts)
    filled = {
        "title": escape(title),
        "version": __version__,
        "written": f"as of {now:%Y-%m-%d %H:%M} {now:%Z}",
        "headline": f'{headline}<nav class="contents" aria-label="Sections">{links}</nav>',
        "notice": shipped("page_notice.html") if data["charts"] else "",
        "sections": "\n".join(f'<section id="{ids[name]}">{body}</section>' for name, body in there.items()),
        "data": embedded(data),
        "style": "".join(shipped(f"{name}.css") for name in styles),
        "script": script,
        "script_hash": "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    # in one pass, so that a text of the run that looks like a name in the template stays a text
    return re.sub(r"\{\{(\w+)\}\}", lambda name: filled[name[1]], shipped("page.html"))


def shipped(name: str) -> str:
    """Return a file of this package."""
    return (resources.files("blankfill.report") / name).read_text(encoding="utf-8")
