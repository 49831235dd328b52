"""The running text of Word documents (.docx), by python-docx: paragraphs in order, of tables those that are prose.

Text that was inserted with changes tracked is text, deleted text is not. Footnotes, comments, headers, text boxes,
formulas and pictures are left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from blankfill.corpus.archives import DAMAGES, checked_members
from blankfill.corpus.documents.prose import is_prose
from blankfill.corpus.faults import SourceError
from blankfill.corpus.limits import LARGEST_MARKUP, LARGEST_OFFICE, too_long

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_LEFT_OUT = {
    f"{_W}txbxContent": "text boxes",
    f"{_W}drawing": "pictures",
    f"{_W}pict": "pictures",
    f"{_W}object": "embedded objects",
    "{http://schemas.openxmlformats.org/officeDocument/2006/math}oMath": "formulas",
    f"{_W}footnoteReference": "footnotes",
    f"{_W}endnoteReference": "footnotes",
    f"{_W}commentReference": "comments",
}
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_SMALLER = "split it, or save it as plain text"
_MARKS = {f"{_W}tab": "\t", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-"}


def docx_paragraphs(path: str, name: str, dropped: Counter[str]) -> Iterator[str]:
    """Yield the paragraphs of a document; what is left out is counted in `dropped`. Raises SourceError for a file that
    cannot be read."""
    import docx
    from docx.opc.exceptions import OpcError
    from lxml.etree import LxmlError

    try:
        members = checked_members(path, name, LARGEST_OFFICE, _SMALLER)
        largest = max(member.file_size for member in members if member.filename.endswith(".xml"))
        if largest > LARGEST_MARKUP:
            raise SourceError(too_long(f"{name}: its text", LARGEST_MARKUP, _SMALLER, "bytes").template)
        document = docx.Document(path)
        body, margins = document.element.body, _margins(document)
    except (*DAMAGES, OpcError, LxmlError) as error:
        raise SourceError(
            f"{name} is not a readable Word document ({error}): save it again, or copy it again."
        ) from error
    dropped["headers and footers"] += margins
    yield from _blocks(body, dropped)


def _margins(document: Any) -> int:
    """Return how many headers and footers of a document have text."""
    parts = [relation.target_part for relation in document.part.rels.values() if not relation.is_external]
    margins = {part for part in parts if part.partname.startswith(("/word/header", "/word/footer"))}
    return sum(any((node.text or "").strip() for node in part.element.iter(f"{_W}t")) for part in margins)


def _blocks(parent: Any, dropped: Counter[str]) -> Iterator[str]:
    for child in parent.iterchildren():
        if child.tag == f"{_W}p":
            text = "".join(_text(child, dropped))
            if text.strip():
                yield text
        elif child.tag == f"{_W}tbl":
            dropped["tables, except sentences in them"] += 1
            for cell in child.iter(f"{_W}tc"):
                yield from filter(is_prose, (("".join(_text(p, dropped))) for p in cell.iterchildren(f"{_W}p")))
        elif isinstance(child.tag, str) and child.tag in (f"{_W}sdt", f"{_W}sdtContent", f"{_W}customXml", f"{_W}ins"):
            yield from _blocks(child, dropped)


def _text(node: Any, dropped: Counter[str]) -> Iterator[str]:
    for child in node.iterchildren():
        if child.tag in _LEFT_OUT:
            dropped[_LEFT_OUT[child.tag]] += 1
            if inner := sum(1 for _ in child.iterdescendants(f"{_W}txbxContent")):
                dropped["text boxes"] += inner
        elif child.tag == f"{_W}t":
            yield child.text or ""
        elif child.tag in _MARKS:
            yield _MARKS[child.tag]
        elif child.tag not in (f"{_W}del", f"{_W}moveFrom", _FALLBACK):
            yield from _text(child, dropped)
