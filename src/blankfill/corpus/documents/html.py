"""The running text of web pages: the main text by trafilatura, or all blocks of a page that has no such part.

Scripts, forms, navigation, tables and pictures are left out and counted. `blocks` is also the reader of the chapters of
EPUB books, which have no navigation. Not here: in which encoding a page is (`sources`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from blankfill.corpus.documents.prose import is_prose
from blankfill.corpus.faults import SourceError
from blankfill.corpus.limits import LARGEST_MARKUP, too_long

LARGEST_PAGE = 4 << 20
"""Characters of a web page in which a main text is searched for; a larger one is a book, and is read as a whole."""
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.IGNORECASE)
_LEFT_OUT = {
    "script": "scripts", "style": "scripts", "noscript": "scripts", "template": "scripts", "nav": "navigation",
    "header": "navigation", "footer": "navigation", "aside": "navigation", "form": "forms", "button": "forms",
    "select": "forms", "textarea": "forms", "img": "pictures", "svg": "pictures", "picture": "pictures",
    "video": "pictures", "audio": "pictures", "canvas": "pictures", "iframe": "embedded pages", "object": "pictures",
    "math": "formulas", "rt": "", "rp": "", "head": "",
}  # fmt: skip
"""Element → what it counts as; "" is left out without being counted."""
_BLOCKS = frozenset(
    (
        "address", "article", "blockquote", "body", "caption", "center", "dd", "details", "div", "dl", "dt", "fieldset",
        "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "html", "legend", "li", "main", "ol", "p",
        "pre", "section", "summary", "table", "tbody", "td", "tfoot", "th", "thead", "title", "tr", "ul",
    )
)  # fmt: skip
_MAIN = 0.1
"""Share of the text of a page that its main text must have, to be believed."""


def declared_encoding(head: bytes) -> str:
    """Return the encoding that a web page declares in its first bytes, "" where it declares none."""
    match = _CHARSET.search(head[:4096]) or re.match(rb"\s*<\?xml[^>]{0,99}encoding=[\"']([\w.:-]{2,40})", head)
    name = match[1].decode("ascii").lower() if match else ""
    # As browsers do: the old name of an encoding stands for its extension.
    return {"gb2312": "gb18030", "gbk": "gb18030", "iso-8859-1": "cp1252", "shift_jis": "cp932"}.get(name, name)


def html_paragraphs(pieces: Iterator[str], name: str, dropped: Counter[str]) -> Iterator[str]:
    """Yield the paragraphs of a page's main text; what is left out is counted in `dropped`.

    Raises SourceError for a page without text, and for one that is longer than LARGEST_MARKUP.
    """
    import lxml.html
    import trafilatura
    from lxml.etree import LxmlError

    parts, size = [], 0
    for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size > LARGEST_MARKUP:
            raise SourceError(too_long(name, LARGEST_MARKUP, "split it, or save it as plain text").template)
    page = re.sub(r"^\s*<\?xml[^>]*\?>", "", "".join(parts))
    try:
        tree = lxml.html.document_fromstring(page)
    except (LxmlError, ValueError, AssertionError) as error:
        raise SourceError(f"{name} is not a readable web page ({error}): save it again.") from error
    everything = list(blocks(tree, dropped))
    shown = sum(map(len, everything))
    main: list[str] = []
    if len(page) <= LARGEST_PAGE:
        text = trafilatura.extract(page, include_comments=False, include_tables=False, favor_recall=True) or ""
        main = [line for line in text.split("\n") if line.strip()]
    main_characters = sum(map(len, main))
    if main_characters < _MAIN * shown:
        main, main_characters = everything, shown
    if not main:
        raise SourceError(f"{name} has no text: if a script shows it in the browser, save the page from there.")
    if shown > main_characters:
        dropped["characters beside the main text"] += shown - main_characters
    yield from main


def blocks(tree: Any, dropped: Counter[str]) -> Iterator[str]:
    """Yield the text of each block of a tree of HTML elements; what is left out is counted in `dropped`."""
    inline: list[str] = []

    def ended() -> Iterator[str]:
        text = "".join(inline)
        inline.clear()
        if text.strip():
            yield text

    # A stack of its own, since pages may be nested more deeply than Python's. Each entry is (element, is its end).
    stack: list[tuple[Any, bool]] = [(tree, False)]
    preformatted = tables = 0
    while stack:
        element, ends = stack.pop()
        tag = element.tag.rpartition("}")[2].lower() if isinstance(element.tag, str) else None
        block = tag in _BLOCKS
        if ends:
            if block:
                text = "".join(ended())
                if text and (not tables or is_prose(text)):
                    yield text
            preformatted -= tag == "pre"
            tables -= tag == "table"
        else:
            if block:
                text = "".join(ended())
                if text and (not tables or is_prose(text)):
                    yield text
            kind = "" if tag is None else _kind(element, tag)
            if kind is not None:
                if kind:
                    dropped[kind] += 1
            else:
                if tag == "table":
                    dropped["tables, except sentences in them"] += 1
                preformatted += tag == "pre"
                tables += tag == "table"
                if tag == "br":
                    inline.append("\n")
                if element.text:
                    inline.append(element.text if preformatted else re.sub(r"\s+", " ", element.text))
                stack.append((element, True))
                stack.extend((child, False) for child in reversed(element))
                continue
        if element is not tree and element.tail:
            inline.append(element.tail if preformatted else re.sub(r"\s+", " ", element.tail))
    text = "".join(ended())
    if text:
        yield text


def _kind(element: Any, tag: str) -> str | None:
    """Return what an element counts as when it is left out, None for one that is text."""
    roles = f"{element.get('{http://www.idpf.org/2007/ops}type', '')} {element.get('epub:type', '')} "
    roles += element.get("role", "")
    if re.search(r"\b(?:doc-)?(?:footnotes?|endnotes?|rearnotes?|noteref)\b", roles):
        return "footnotes" if "noteref" not in roles else ""
    if element.get("hidden") is not None or element.get("aria-hidden") == "true":
        return "hidden elements"
    return _LEFT_OUT.get(tag)
