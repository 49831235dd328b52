"""The page of the API at /docs: it reads /openapi.json and lists paths, fields, answers and a call with curl."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from blankfill.serving.page import Page, source_of


@cache
def reference() -> Page:
    """Return the page."""
    here = files("blankfill.serving.page")
    style, script, frame = (here.joinpath(f"reference.{kind}").read_text("utf-8") for kind in ("css", "js", "html"))
    document = frame.replace("/*STYLE*/", style).replace("/*SCRIPT*/", script)
    policy = (
        f"default-src 'none'; connect-src 'self'; script-src {source_of(script)}; style-src {source_of(style)}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Page(document.encode(), policy)
