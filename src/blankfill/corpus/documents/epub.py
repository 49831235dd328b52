"""The running text of EPUB books: a zip archive of XHTML chapters, read in the order of the book's spine.

Chapters outside the reading order (the table of contents, pages of notes) are left out and counted. Not here: the text
of a chapter (`html`).
"""

from __future__ import annotations

import posixpath
import zipfile
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from blankfill.corpus.archives import DAMAGES, checked_members
from blankfill.corpus.documents.html import blocks
from blankfill.corpus.faults import SourceError
from blankfill.corpus.limits import LARGEST_MARKUP, LARGEST_OFFICE

_FONTS = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")
"""Encryption of fonts, which leaves the text readable."""


def epub_paragraphs(path: str, name: str, dropped: Counter[str]) -> Iterator[str]:
    """Yield the paragraphs of a book, a chapter in memory at a time; what is left out is counted in `dropped`.

    Raises SourceError for a file that cannot be read, is encrypted, or has no text.
    """
    from lxml import etree, html

    damages = (*DAMAGES, etree.LxmlError, AttributeError, TypeError, AssertionError)
    has_text = False
    try:
        checked_members(path, name, LARGEST_OFFICE, "save its text as plain text")
        with zipfile.ZipFile(path) as archive:
            _refuse_encrypted(archive, name)
            chapters = _chapters(archive, dropped)
            for chapter in chapters:
                try:
                    tree = html.document_fromstring(_bytes(archive, chapter))
                except damages:
                    dropped["chapters that cannot be read"] += 1
                    continue
                for text in blocks(tree, dropped):
                    has_text = True
                    yield text
    except damages as error:
        raise SourceError(f"{name} is not a readable EPUB book ({error}): copy or download it again.") from error
    if not has_text:
        raise SourceError(f"{name} has no text in its {len(chapters)} chapters, only pictures: leave it out.")


def _bytes(archive: zipfile.ZipFile, member: str) -> bytes:
    if archive.getinfo(member).file_size > LARGEST_MARKUP:
        raise ValueError(f"{member} is too large")
    return archive.read(member)


def _xml(archive: zipfile.ZipFile, member: str) -> Any:
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    return etree.fromstring(_bytes(archive, member), parser)


def _refuse_encrypted(archive: zipfile.ZipFile, name: str) -> None:
    if "META-INF/encryption.xml" not in archive.namelist():
        return
    methods = [
        node.get("Algorithm", "") for node in _xml(archive, "META-INF/encryption.xml").iter("{*}EncryptionMethod")
    ]
    if any(not method.startswith(_FONTS) for method in methods):
        raise SourceError(f"{name} is encrypted (copy protection), so its text cannot be read: leave it out.")


def _chapters(archive: zipfile.ZipFile, dropped: Counter[str]) -> list[str]:
    """Return the members of the archive that are chapters, in reading order."""
    package = _xml(archive, "META-INF/container.xml").find(".//{*}rootfile").get("full-path")
    tree = _xml(archive, package)
    folder = posixpath.dirname(package)
    items = {node.get("id"): node for node in tree.iter("{*}item")}
    chapters: list[str] = []
    for reference in tree.iter("{*}itemref"):
        item = items.get(reference.get("idref"))
        if item is None or "html" not in item.get("media-type", ""):
            continue
        if reference.get("linear") == "no" or "nav" in item.get("properties", "").split():
            dropped["chapters outside the reading order"] += 1
            continue
        chapters.append(posixpath.normpath(posixpath.join(folder, unquote(item.get("href")))))
    return chapters
