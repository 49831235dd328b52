"""Which kind of document a file is, by its content: Word, PDF, EPUB; and what to do about those that are not read."""

from __future__ import annotations

import importlib.util
import re
import zipfile

from blankfill.corpus.archives import DAMAGES, check_directory
from blankfill.corpus.faults import SourceError

NEEDS = {
    "docx": ("a Word document", "docx", "python-docx"),
    "pdf": ("a PDF document", "pypdf", "pypdf"),
    "epub": ("an EPUB book", "lxml", "lxml"),
    "html": ("a web page", "trafilatura", "trafilatura"),
}
"""Kind → what it is, the module that reads it, and the package that has the module."""
BY_CONTENT = (".docx", ".pdf", ".epub")
"""Suffixes of documents whose first bytes show what they are."""
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_SAVE = "save it as .docx or as plain text, for example with LibreOffice"


def document_kind(path: str, head: bytes, compression: str) -> tuple[str, str]:
    """Return (kind, "") of a document, ("", reason why it cannot be read, with the remedy), or ("", "") for no
    document."""
    kind, refusal = "", ""
    if head.startswith(_OLE):
        utf16 = "WordDocument".encode("utf-16-le")
        what = "an old Word document (.doc)" if utf16 in head else "an old or encrypted Office document"
        refusal = f"{what}: {_SAVE}, without a password"
    elif head.startswith(b"{\\rtf"):
        refusal = f"an RTF document: {_SAVE}"
    elif re.match(rb"\s{0,99}%PDF-\d", head):
        # A text about PDF may begin like one; every PDF has objects.
        kind = "pdf" if re.search(rb"(?<!\d)\d++\s++\d++\s++obj\b", head) or compression else ""
    elif head.startswith(b"PK\x03\x04"):
        kind, refusal = ("", "") if compression else _zip_kind(path)
    if kind and compression:
        return "", f"a compressed {NEEDS[kind][0].partition(' ')[2]}: decompress it first"
    return (kind, refusal) if refusal or not kind else needed(kind)


def needed(kind: str) -> tuple[str, str]:
    """Return (kind, ""), or ("", reason) where the package that reads this kind is missing."""
    what, module, package = NEEDS[kind]
    if importlib.util.find_spec(module) is None:
        return "", f"{what}, which needs the {package} package: pip install 'blankfill[office]'"
    return kind, ""


def _zip_kind(path: str) -> tuple[str, str]:
    try:
        check_directory(path)
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            mark = b""
            if "mimetype" in names:
                with archive.open("mimetype") as member:
                    mark = member.read(100).strip()
    except SourceError:
        return "", "a zip archive of very many files: unpack it first"
    except DAMAGES:
        return "", "a damaged zip archive or Office document: copy or download it again"
    if "word/document.xml" in names:
        return "docx", ""
    if mark == b"application/epub+zip":
        return "epub", ""
    if mark.startswith(b"application/vnd.oasis.opendocument.text"):
        return "", f"an OpenDocument text (.odt): {_SAVE}"
    if mark.startswith(b"application/vnd.oasis.opendocument"):
        return "", "an OpenDocument file without running text: leave it out, or save its text as plain text"
    if "ppt/presentation.xml" in names:
        return "", "a presentation: save its text as plain text, or the presentation as PDF"
    if "xl/workbook.xml" in names or "xl/workbook.bin" in names:
        return "", "a spreadsheet: give its name the suffix .xlsx"
    return "", "a zip archive, not text: unpack it first"
