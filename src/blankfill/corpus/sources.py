"""Finds and reads sources: files and folders of any shape in, documents of clean paragraphs out.

`discover` looks at names and first bytes, decides what each file is, and cuts large plain files into ranges that
several processes can read at once. `read` turns one such unit of work into documents, streaming: no text file is ever
in memory as a whole (but a record of a JSON Lines file, a wiki page, a web page and a PDF document are).

Not here: which files there are (`walk`), what a file is (`kinds`), how each form is parsed (`tables`, `documents`,
`wiki`, `python_docs`), how paragraphs are found (`clean`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Literal

from blankfill.corpus import clean, python_docs, wiki
from blankfill.corpus.compression import compression_of, open_binary
from blankfill.corpus.decoding import read_text, whole_lines
from blankfill.corpus.documents.docx import docx_paragraphs
from blankfill.corpus.documents.epub import epub_paragraphs
from blankfill.corpus.documents.html import declared_encoding, html_paragraphs
from blankfill.corpus.documents.kinds import NEEDS, needed
from blankfill.corpus.documents.pdf import pdf_text
from blankfill.corpus.encodings import REPLACE, Encoding, EncodingError, check_encoding, decide_encoding, is_utf8
from blankfill.corpus.faults import SourceError
from blankfill.corpus.kinds import BINARY, MOST_CONTROLS, binary_kind, is_page, text_kind
from blankfill.corpus.spool import is_pipe, spooled
from blankfill.corpus.tables.columns import FieldChoice
from blankfill.corpus.tables.options import TableOptions
from blankfill.corpus.tables.parquet_rows import parquet_groups
from blankfill.corpus.tables.prose import text_choices, text_rows
from blankfill.corpus.tables.reading import open_table
from blankfill.corpus.walk import Walk
from blankfill.errors import Problem, UserError, template_of
from blankfill.system.reading import regular_size

LARGE_BYTES = 64 << 20
"""Plain text, JSON Lines, WikiExtractor and Parquet files beyond this size are cut into ranges of about this size."""

COMPRESSED_BYTES = 64 << 20
"""Unpacked bytes of a compressed file that its encoding is decided by at most: unpacking a file twice takes long."""
HEAD_BYTES = 1 << 16
_HEAD_LINE_BYTES = 8 << 20
_BOUNDARY_BYTES = 1 << 20
MOST_DAMAGED = 3
"""Damaged bytes of a web page with which it is believed to be in the encoding that it declares."""


@dataclass(frozen=True, kw_only=True)
class SourceOptions(TableOptions):
    """How to read the sources.

    documents: whether a plain-text file is one document, or blank lines separate its documents. strip: "gutenberg"
    drops Project Gutenberg's header and footer. The options of tables: encoding is that of all plain files that are not
    UTF-8, and the columns in the role "text" hold the text.
    """

    documents: Literal["file", "paragraphs"] = "file"
    strip: Literal["none", "gutenberg"] = "none"


@dataclass(frozen=True)
class Source:
    """One unit of reading: a file, a range of a file, or a share of the built-in corpus.

    kind: "text", "jsonl", "json", "csv", "tsv", "parquet", "spreadsheet", "html", "docx", "pdf", "epub",
    "wikiextractor", "mediawiki" or "python-docs". compression: "", "gz", "bz2", "xz" or "zst". start, end: the range,
    in bytes (row groups for Parquet, shares for python-docs); end None is the end of the file. size: bytes of this unit
    on disk, for progress. continues: this range continues the document that the previous range of the same file began.
    name: the name in errors and documents, where it is not the path (standard input is spooled to a file). encoding: of
    a file of text, decided once for all its ranges. folder: the folder that the user named and that holds the file; ""
    for a file that was named.
    """

    path: str
    kind: str
    compression: str
    start: int = 0
    end: int | None = None
    size: int = 0
    continues: bool = False
    name: str = ""
    encoding: Encoding = field(default_factory=Encoding)
    folder: str = ""


@dataclass
class RawDocument:
    """A document as it is read.

    name: the path, with #number or #title where a file has several. paragraphs: clean and not empty, hard wraps
    joined; to be exhausted before the next document is taken. A document may turn out to have none. choices: the
    columns of the table that the text comes from; empty where it is not from a table. notes: what was decided about the
    table, a sentence each; complete after the last document. dropped: numbers of things that were left out, by what
    they are, once the paragraphs are exhausted.
    """

    name: str
    paragraphs: Iterator[str]
    choices: Sequence[FieldChoice] = ()
    notes: Sequence[str] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)


def discover(
    paths: Sequence[str | Path],
    options: SourceOptions,
    skipped: list[str] | None = None,
    large_bytes: int = LARGE_BYTES,
    most_bytes: int | None = None,
) -> list[Source]:
    """Return the sources at `paths`: files, folders (walked in sorted order, hidden names left out), "-" for
    standard input, or "python-docs" for the documentation of this Python.

    skipped: receives one line, "path: reason", for each file in a folder that is not text, is damaged, or is no file at
    all (a link that leads nowhere, a pipe, a device), and for each empty file.
    large_bytes: see LARGE_BYTES. most_bytes: number of bytes of a file that its encoding is decided by; None is all
    (of a compressed file at most COMPRESSED_BYTES). The order is that of the paths, then of names. Raises UserError for
    a path that does not exist, cannot be read or is not text, when nothing at all is found, and for an unknown
    encoding.
    """
    check_encoding(options.encoding)
    skipped = [] if skipped is None else skipped
    before = len(skipped)
    walk = Walk(skipped)
    sources: list[Source] = []
    for path in map(str, paths):
        if path == "python-docs":
            shares = python_docs.SHARES
            sources += [
                Source(path, "python-docs", "", share, share + 1, python_docs.budget(share)) for share in range(shares)
            ]
            continue
        for file, folder in walk.files(path):
            if file != "-" and not folder and not is_pipe(file):
                regular_size(Path(file))
            copied = spooled(file) if file == "-" or (not folder and is_pipe(file)) else file
            name = "" if copied == file else "standard input" if file == "-" else file
            try:
                sources += _sources(copied, name, folder, options, skipped, large_bytes, most_bytes)
            except SourceError as error:
                # An encoding that the user named is for all files, so one that is not in it is an error.
                if not folder or (isinstance(error, EncodingError) and options.encoding is not None):
                    raise
                skipped.append(error.line(name or copied))
    if not sources:
        reasons = "; ".join(map(template_of, skipped[before : before + 3]))
        more = len(skipped) - before - 3
        detail = f" ({reasons}{f'; and {more} more' if more > 0 else ''})" if reasons else ""
        raise UserError(
            f"There is nothing to read in {', '.join(map(str, paths)) or 'no paths'}{detail}: name a text file."
        )
    return sources


def _sources(
    path: str,
    name: str,
    folder: str,
    options: SourceOptions,
    skipped: list[str],
    large_bytes: int,
    most_bytes: int | None,
) -> list[Source]:
    shown = name or path
    try:
        size = Path(path).stat().st_size
    except OSError as error:
        raise SourceError(f"{shown} cannot be read ({error.strerror or error}).") from error
    compression = compression_of(path)
    with open_binary(path, compression) as stream:
        head = stream.read(HEAD_BYTES)
        # Complete the last line of the head, to distinguish a long record from a broken one.
        head += stream.readline(_HEAD_LINE_BYTES) if len(head) == HEAD_BYTES else b""
    if not head:
        skipped.append(f"{shown}: empty")
        return []
    encoding = Encoding()
    kind, refusal = binary_kind(shown, path, head, compression, options.encoding)
    if not kind and not refusal:
        encoding = _encoding(head, path, compression, options.encoding, shown, _most_bytes(compression, most_bytes))
        text = head.decode(encoding.codec, "ignore").removeprefix("\ufeff")
        kind, refusal = text_kind(shown, text, options.columns)
        if kind == "html":
            kind, refusal = needed(kind)
        if encoding.nuls > MOST_CONTROLS * size:
            refusal = BINARY
    if refusal and not folder:
        raise UserError(f"{shown} is {refusal}.")
    if refusal:
        skipped.append(Problem(f"{shown}: {refusal}"))
        return []
    ranges = [(0, None)] if compression else _ranges(path, kind, size, encoding.name, options, large_bytes)
    # Ranges of Parquet files count row groups; each range gets an equal share of the bytes.
    share = size // len(ranges) if kind == "parquet" else None
    return [
        Source(
            path,
            kind,
            compression,
            start,
            end,
            (size if end is None else end) - start if share is None else share,
            continues=start > 0 and kind == "text" and options.documents == "file",
            name=name,
            encoding=encoding,
            folder=folder,
        )
        for start, end in ranges
    ]


def _encoding(
    head: bytes, path: str, compression: str, wanted: str | None, name: str, most_bytes: int | None
) -> Encoding:
    """Return the encoding of a text; of a web page, where it would be a guess, that which the page declares, if the
    page decodes."""
    declared = declared_encoding(head) if wanted is None and is_page(head.decode("latin-1")) else ""
    try:
        encoding = decide_encoding(path, compression, wanted, name, most_bytes)
        if encoding.source != "guess" or not declared:
            return encoding
    except EncodingError:
        if not declared:
            raise
        encoding = None
    try:
        stated = decide_encoding(path, compression, declared + REPLACE, name, most_bytes)
    except UserError:  # no encoding, or one that Python does not have
        stated = None
    if stated is not None and stated.source == "user" and stated.damaged <= MOST_DAMAGED:
        return replace(stated, name=stated.name if stated.damaged else declared, source="mark")
    return encoding or decide_encoding(path, compression, wanted, name, most_bytes)


def _most_bytes(compression: str, most_bytes: int | None) -> int | None:
    if not compression:
        return most_bytes
    return COMPRESSED_BYTES if most_bytes is None else min(COMPRESSED_BYTES, most_bytes)


def _ranges(
    path: str, kind: str, size: int, encoding: str, options: SourceOptions, large_bytes: int
) -> list[tuple[int, int | None]]:
    """Cut a file into ranges of about `large_bytes` that begin where a document, or at least a line, begins."""
    if kind == "parquet":
        starts, held = [0], 0
        for group, group_bytes in enumerate(parquet_groups(path)):
            if held >= large_bytes:
                starts.append(group)
                held = 0
            held += group_bytes
    else:
        # Only in UTF-8 is every line-feed byte a line end; and a book must be read from its beginning to find its end.
        whole = not is_utf8(encoding) or (kind == "text" and options.strip != "none")
        if size <= large_bytes or whole or kind not in ("text", "jsonl", "wikiextractor"):
            return [(0, None)]
        starts = [0]
        with Path(path).open("rb") as stream:
            for target in range(large_bytes, size, large_bytes):
                at = _boundary(stream, target, kind, options.documents)
                if at is not None and starts[-1] < at < size:
                    starts.append(at)
    return list(zip(starts, [*starts[1:], None], strict=True))


def _boundary(stream: BinaryIO, target: int, kind: str, documents: str) -> int | None:
    """Return the first byte at or after `target` where a range may begin, or None when no such byte is near."""
    stream.seek(target - 1)
    window = stream.read(_BOUNDARY_BYTES)
    if kind == "wikiextractor":
        match = re.search(rb"\n(?=<doc )", window)
    elif kind == "jsonl":
        match = re.search(rb"\n", window)
    else:
        match = re.search(rb"\n[ \t\r]*\n(?:[ \t\r]*\n)*", window)
        if match is None and documents == "file":
            match = re.search(rb"\n(?=[ \t]|\xe3\x80\x80)", window) or re.search(rb"\n", window)
    return target - 1 + match.end() if match else None


def read(source: Source, options: SourceOptions) -> Iterator[RawDocument]:
    """Yield the documents of one source, in order.

    Raises UserError during iteration, for bytes that are not in the encoding, broken JSON, CSV or XML, a missing text
    field, and damaged compressed data; each error names the file and the place.
    """
    path, name = source.path, source.name or source.path
    compression, encoding = source.compression, source.encoding.name
    # Numbers count from the beginning of the range, which is then part of the name.
    prefix = f"{name}#{source.start}+" if source.start and source.kind != "parquet" else f"{name}#"
    if source.kind == "text":
        pieces = whole_lines(read_text(path, compression, encoding, source.start, source.end, name))
        if options.documents == "file":
            yield RawDocument(name, clean.paragraphs(pieces, options.strip))
        else:
            for number, paragraphs in enumerate(clean.documents(pieces, options.strip), 1):
                yield RawDocument(f"{prefix}{number}", paragraphs)
        return
    if source.kind == "python-docs":
        for module, prose in python_docs.read_share(source.start):
            yield RawDocument(module, iter(prose))
        return
    if source.kind in ("mediawiki", "wikiextractor"):
        if source.kind == "mediawiki":
            pages = wiki.read_dump(path, compression, name)
        else:
            pages = wiki.read_extractor(path, compression, source.start, source.end, encoding, name)
        for title, prose in pages:
            yield RawDocument(f"{name}#{title}", iter(prose))
        return
    if source.kind in NEEDS:
        dropped: Counter[str] = Counter()
        yield RawDocument(name, _document(source, name, options, dropped), dropped=dropped)
        return
    table = open_table(
        path,
        options,
        kind=source.kind,
        compression=compression,
        start=source.start,
        end=source.end,
        name=name,
        encoding=encoding,
    )
    choices = text_choices(table, options)
    for number, prose in text_rows(table, choices):
        yield RawDocument(f"{prefix}{number}", iter(prose), choices, table.notes)


def read_if_possible(source: Source, options: SourceOptions, skipped: list[str]) -> Iterator[RawDocument]:
    """Yield the documents of one source, as `read` does, for a source that may be damaged.

    A file of a folder that cannot be read (a document that is damaged or encrypted, a file that was removed since it
    was listed) gives a line in `skipped` instead of an error. What was read before the damage stays; a document without
    any text before it is not yielded.
    """
    name = source.name or source.path
    has_text = False

    def passed_over(error: UserError) -> bool:
        if not source.folder or not (isinstance(error, SourceError) or not Path(source.path).exists()):
            return False
        fault = error if isinstance(error, SourceError) else SourceError(error.template)
        skipped.append(Problem(f"{fault.line(name).template}{'; the text before that was read' * has_text}"))
        return True

    def paragraphs(first: str, others: Iterator[str]) -> Iterator[str]:
        nonlocal has_text
        has_text = True
        yield first
        try:
            yield from others
        except UserError as error:
            if not passed_over(error):
                raise

    try:
        for document in read(source, options):
            # The first paragraph is read before the document is yielded, since a damaged file may have none.
            first = next(document.paragraphs, None)
            yield document if first is None else replace(document, paragraphs=paragraphs(first, document.paragraphs))
    except UserError as error:
        if not passed_over(error):
            raise


def _document(source: Source, name: str, options: SourceOptions, dropped: Counter[str]) -> Iterator[str]:
    """Yield the paragraphs of a document that is one file; what is left out is counted in `dropped`."""
    path, compression, encoding = source.path, source.compression, source.encoding.name
    if source.kind == "pdf":
        yield from clean.paragraphs(pdf_text(path, name, dropped))
        return
    if source.kind == "html":
        texts = html_paragraphs(read_text(path, compression, encoding, name=name), name, dropped)
    elif source.kind == "docx":
        texts = docx_paragraphs(path, name, dropped)
    else:
        texts = epub_paragraphs(path, name, dropped)
    for text in texts:
        yield from clean.record_paragraphs(text)
