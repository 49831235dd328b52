"""The page for browsers: one HTML document that needs no other file, put together from the parts beside this one.

The parts are joined as they are: `style.css`, the scripts in the order of `SCRIPTS`, and `page.html`, which has a place
for each. So the page works offline and has no build step. Its Content-Security-Policy allows exactly these scripts and
this style, by their checksums.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

SHARED = ("core.js", "texts.js", "parts.js", "code.js", "connection.js", "shell.js")
FILL = ("blanked.js", "sheet.js", "fill.js")
PREDICT = ("predictions.js", "predict.js")
WRITE = ("talks.js", "written.js", "write.js", "chat.js")
EMBED = ("vectors.js", "map.js", "embed.js")
INSIDE = ("square.js", "inside.js")
SCRIPTS: tuple[str, ...] = (*SHARED, *FILL, *PREDICT, *WRITE, *EMBED, *INSIDE, "start.js")
"""The scripts in order: what panels share, the panels, and the start of the page."""


STYLES = ("style.css", "panels.css")
"""The style sheets in order: the frame's and what panels share, then those of panels."""


@dataclass(frozen=True)
class Page:
    """The document, and the value of its Content-Security-Policy."""

    document: bytes
    policy: str


@cache
def page() -> Page:
    """Return the page."""
    here = files("blankfill.serving.page")
    style = "\n".join(here.joinpath(name).read_text("utf-8") for name in STYLES)
    script = "\n".join(here.joinpath(name).read_text("utf-8") for name in SCRIPTS)
    frame = here.joinpath("page.html").read_text("utf-8")
    document = frame.replace("/*STYLE*/", style).replace("/*SCRIPT*/", script)
    policy = (
        f"default-src 'none'; connect-src 'self'; img-src data: blob:; script-src {source_of(script)}; "
        f"style-src {source_of(style)}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return Page(document.encode(), policy)


def source_of(text: str) -> str:
    """Return the source of a policy that allows one inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
