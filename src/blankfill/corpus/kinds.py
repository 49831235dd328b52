"""What a file is, by its first bytes and its name; content outranks names.

WikiExtractor's files have no suffix, and many a .txt holds JSON Lines. A file that is text all through is text,
whatever it begins with. Not here: what kind of document it is (`documents`), the form of a table (`tables`).
"""

from __future__ import annotations

import re

from blankfill.corpus.compression import plain_suffix
from blankfill.corpus.documents.kinds import BY_CONTENT, NEEDS, document_kind
from blankfill.corpus.encodings import bom_encoding, check_encoding, is_wide, wide_encoding
from blankfill.corpus.tables.parquet_rows import is_parquet
from blankfill.corpus.tables.prose import is_json_lines
from blankfill.corpus.tables.reading import FORMS, RENAME, table_kind
from blankfill.corpus.tables.spreadsheet_rows import is_spreadsheet
from blankfill.system.reading import POINTER, STAND_IN, substitute

_SIGNATURES = (
    (rb"PK\x03\x04", "a zip archive"),
    (rb"Rar!\x1a\x07", "a RAR archive"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (rb"MMIDIDX\0\0", "an index of token files"),
    (rb"ARROW1\0\0", "an Arrow file"),
    (rb"\x93NUMPY[\x01-\x03]\0", "a NumPy array"),
    (rb"SQLite format 3\0", "a database"),
    (rb"\x89PNG\r\n\x1a\n", "a picture"),
    (rb"\xff\xd8\xff", "a picture"),
    (rb"GIF8[79]a.[\x00-\x1f].[\x00-\x1f]", "a picture"),  # width and height of less than 8,192 pixels
    (rb"\x7fELF[\x01\x02][\x01\x02]\x01", "a program"),
)
"""Patterns of the first bytes of files, with what they are."""
_PAGE = re.compile(
    r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--(?>.*?-->)\s*+)*+<(?:!doctype html|html)\b", re.IGNORECASE | re.DOTALL
)
BINARY = "a binary file, not text: leave it out, or convert it to plain text"
MOST_CONTROLS = 0.02
"""Share of control characters above which a file is binary."""
_SAMPLE = 8192
_SHORT = 12


def binary_kind(name: str, path: str, head: bytes, compression: str, encoding: str | None) -> tuple[str, str]:
    """Return (kind, "") of a file whose bytes decide about it, ("", reason why it cannot be read, with the remedy), or
    ("", "") for a text.

    A file that is text all through is text, whatever it begins with.
    """
    controls = _controls(head)
    if head.startswith(b"PAR1") and (controls or len(head) < _SHORT or (not compression and is_parquet(path))):
        if compression:
            return "", "a compressed Parquet file: decompress it first"
        return ("parquet", "") if is_parquet(path) else ("", "a truncated Parquet file: copy it again")
    if is_spreadsheet(name, head) and not compression:
        return "spreadsheet", ""
    kind, refusal = document_kind(path, head, compression)
    if kind or refusal:
        return kind, refusal
    for signature, what in _SIGNATURES:
        if re.match(signature, head, re.DOTALL):
            return "", f"{what}, not text: convert or unpack it to plain text first"
    if head[257:262] == b"ustar" and b"\0" in head[262:512]:
        return "", "a tar archive: unpack it first"
    if b"<mediawiki" in head[:4000]:
        return "mediawiki", ""
    wide = bom_encoding(head) or wide_encoding(head) or is_wide(check_encoding(encoding))
    if controls > MOST_CONTROLS * len(head[:_SAMPLE]) and not wide:
        return "", BINARY
    return "", ""


def _controls(head: bytes) -> int:
    return len(re.findall(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", head[:_SAMPLE]))


def is_page(text: str) -> bool:
    """Return whether a text begins as a web page does."""
    return _PAGE.match(text[:4000]) is not None


def text_kind(name: str, text: str, columns: tuple[str, ...]) -> tuple[str, str]:
    """Return (kind, "") of a text by its name and its beginning, or ("", reason why it cannot be read)."""
    suffix = plain_suffix(name)
    if "<mediawiki" in text[:4000]:
        return "mediawiki", ""
    if re.match(r"\s*<doc id=", text):
        return "wikiextractor", ""
    named = table_kind(name)
    document = NEEDS[suffix[1:]][0] if suffix in BY_CONTENT else ""
    what = substitute(text[:STAND_IN].encode())
    if what and (named or document):
        return "", f"{what}, not {document or 'a table'}: download the file itself"
    if what == POINTER:
        return "", f"{what}: download the file itself"
    if document:
        return "", f"text, and its name is that of {document}: name it .txt, or copy or download the document again"
    if named in FORMS:
        return "", f"text, and its name is that of {FORMS[named]}: {RENAME}"
    if named == "jsonl":
        return "jsonl", ""
    if suffix == ".json":
        return "jsonl" if is_json_lines(text, columns) else "json", ""
    if named in ("csv", "tsv"):
        return named, ""
    if is_page(text):
        return "html", ""
    if suffix in (".html", ".htm", ".xhtml") and re.search(r"<[a-zA-Z/!]", text[:4000]):
        return "html", ""
    if re.match(r"\s*(?:<\?xml|<svg)", text, re.IGNORECASE):
        return "", "XML, not plain text: convert it first (of XML, only MediaWiki dumps are read)"
    return "jsonl" if is_json_lines(text, columns) else "text", ""
