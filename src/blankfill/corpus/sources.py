"""Finds and reads sources: files and folders of any shape in, documents of clean paragraphs out.

`discover` looks at names and first bytes, decides what each file is, and cuts large plain files into ranges that
several processes can read at once. `read` turns one such unit of work into documents, streaming: no document or file is
ever in memory as a whole (but a record of a JSON Lines file or a wiki page is). Content outranks names, since
WikiExtractor's files have no suffix and many a .txt holds JSON Lines.

Not here: how each format is parsed (`tables`, `wiki`, `python_docs`), how paragraphs are found (`clean`).
"""

from __future__ import annotations

import atexit
import glob
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from blankfill.corpus import clean, python_docs, summary, wiki
from blankfill.corpus.compression import SUFFIXES, open_binary, sniff_compression
from blankfill.corpus.decoding import read_text, whole_lines
from blankfill.corpus.encodings import (
    Encoding,
    EncodingError,
    bom_encoding,
    check_encoding,
    decide_encoding,
    is_utf8,
    is_wide,
    wide_encoding,
)
from blankfill.corpus.tables.columns import FieldChoice
from blankfill.corpus.tables.options import TableOptions
from blankfill.corpus.tables.parquet_rows import is_parquet, parquet_groups
from blankfill.corpus.tables.prose import is_json_lines, text_choices, text_rows
from blankfill.corpus.tables.reading import open_table, table_kind
from blankfill.corpus.tables.spreadsheet_rows import is_spreadsheet
from blankfill.errors import Problem, UserError
from blankfill.system.files import disk_errors
from blankfill.system.reading import UnreadableError, regular_size

SPOOLED = "blankfill-text-"
"""How the names of temporary files with piped text begin."""
_LOCKS: list[int] = []
"""Handles that lock the temporary files of this process."""
LARGE_BYTES = 64 << 20
"""Plain text, JSON Lines, WikiExtractor and Parquet files beyond this size are cut into ranges of about this size."""

COMPRESSED_BYTES = 64 << 20
"""Unpacked bytes of a compressed file that its encoding is decided by at most: unpacking a file twice takes long."""
HEAD_BYTES = 1 << 16
_HEAD_LINE_BYTES = 8 << 20
_BOUNDARY_BYTES = 1 << 20

_SIGNATURES = (
    (rb"%PDF-\d", "a PDF document"),
    (rb"PK\x03\x04", "a zip archive (or an Office document)"),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document"),
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
_BINARY = "a binary file, not text: leave it out, or convert it to plain text"
_MOST_CONTROLS = 0.02
"""Share of control characters above which a file is binary."""
_SAMPLE = 8192
_SHORT = 12


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

    kind: "text", "jsonl", "json", "csv", "tsv", "parquet", "spreadsheet", "wikiextractor", "mediawiki" or
    "python-docs". compression: "", "gz", "bz2", "xz" or "zst". start, end: the range, in bytes (row groups for Parquet,
    shares for python-docs); end None is the end of the file. size: bytes of this unit on disk, for progress. continues:
    this range continues the document that the previous range of the same file began. name: the name in errors and
    documents, where it is not the path (standard input is spooled to a file). encoding: of a file of text, decided once
    for all its ranges.
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


@dataclass
class RawDocument:
    """A document as it is read.

    name: the path, with #number or #title where a file has several. paragraphs: clean and not empty, hard wraps
    joined; to be exhausted before the next document is taken. A document may turn out to have none. choices: the
    columns of the table that the text comes from; empty where it is not from a table. notes: what was decided about the
    table, a sentence each; complete after the last document.
    """

    name: str
    paragraphs: Iterator[str]
    choices: Sequence[FieldChoice] = ()
    notes: Sequence[str] = ()


def discover(
    paths: Sequence[str | Path],
    options: SourceOptions,
    skipped: list[str] | None = None,
    large_bytes: int = LARGE_BYTES,
    most_bytes: int | None = None,
) -> list[Source]:
    """Return the sources at `paths`: files, folders (walked in sorted order, hidden names left out), "-" for
    standard input, or "python-docs" for the documentation of this Python.

    skipped: receives one line, "path: reason", for each file in a folder that is not text or no file at all (a link
    that leads nowhere, a pipe, a device), and for each empty file.
    large_bytes: see LARGE_BYTES. most_bytes: number of bytes of a file that its encoding is decided by; None is all
    (of a compressed file at most COMPRESSED_BYTES). The order is that of the paths, then of names. Raises UserError for
    a path that does not exist, cannot be read or is not text, when nothing at all is found, and for an unknown
    encoding.
    """
    check_encoding(options.encoding)
    skipped = [] if skipped is None else skipped
    before = len(skipped)
    sources: list[Source] = []
    for path in map(str, paths):
        if path == "python-docs":
            shares = python_docs.SHARES
            sources += [
                Source(path, "python-docs", "", share, share + 1, python_docs.budget(share)) for share in range(shares)
            ]
            continue
        for file, named in _files(path):
            if file != "-" and not (named and _is_pipe(file)):
                try:
                    regular_size(Path(file))
                except UnreadableError as error:
                    if named:
                        raise
                    skipped.append(str(error).replace(f"{file} ", f"{file}: ", 1))
                    continue
            spooled = _spooled(file) if file == "-" or _is_pipe(file) else file
            name = "" if spooled == file else "standard input" if file == "-" else file
            sources += _sources(spooled, name, named, options, skipped, large_bytes, most_bytes)
    if not sources:
        reasons = "; ".join(skipped[before : before + 3])
        more = len(skipped) - before - 3
        detail = f" ({reasons}{f'; and {more} more' if more > 0 else ''})" if reasons else ""
        raise UserError(
            f"There is nothing to read in {', '.join(map(str, paths)) or 'no paths'}{detail}: name a text file."
        )
    return sources


def _files(path: str) -> Iterator[tuple[str, bool]]:
    """Yield the files at a path, and for each whether the user named it (or it lies in a folder that the user
    named)."""
    if path == "-":
        yield path, True
    elif Path(path).is_dir():
        _refuse_tokens(Path(path))
        yield from ((file, False) for file in _walk(Path(path)))
    elif Path(path).exists():
        yield path, True
    elif glob.has_magic(path) and (matches := sorted(glob.glob(path, recursive=True))):  # noqa: PTH207
        # Some shells pass patterns without expanding them.
        for match in matches:
            yield from _files(match)
    else:
        raise UserError(f"{path} does not exist: check the path (a folder, a file, - or python-docs).")


def refuse_broken_corpus(folder: Path) -> None:
    """Raise UserError for a folder with the token files of a prepared corpus, but without its `corpus.json`."""
    if all((folder / name).is_file() for name in ("train.bin", "train.idx")) and not (folder / summary.FILE).exists():
        raise UserError(
            f"{folder} looks like a prepared corpus whose {summary.FILE} is missing; put that file back, or prepare "
            "the text again."
        )


def _refuse_tokens(folder: Path) -> None:
    """Raise UserError for the folder of a prepared corpus, whole or not, since its files are not text."""
    refuse_broken_corpus(folder)
    if (folder / summary.FILE).is_file() and (folder / "train.bin").is_file():
        raise UserError(
            f"{folder} is a prepared corpus, whose files are tokens and not text; give the text that it was made of "
            "(only pretrain, show and plan take a prepared corpus, as their one path)."
        )


def _walk(folder: Path) -> Iterator[str]:
    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}.") from error

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield str(Path(parent) / name)


def _is_pipe(path: str) -> bool:
    return stat.S_ISFIFO(Path(path).stat().st_mode)


def _spooled(path: str) -> str:
    """Copy standard input or a pipe to a temporary file, which is removed when this process ends.

    A process that is killed leaves its file behind; the next one removes it.
    """
    remove_leftovers(Path(tempfile.gettempdir()))
    handle, name = _locked_temporary()
    atexit.register(Path(name).unlink, missing_ok=True)
    remedy = "free some space there, or let TMPDIR name a folder with more"
    with disk_errors(Path(name), remedy), os.fdopen(handle, "wb") as target:
        if path == "-":
            shutil.copyfileobj(sys.stdin.buffer, target)
        else:
            with Path(path).open("rb") as source:
                shutil.copyfileobj(source, target)
    return name


def _locked_temporary() -> tuple[int, str]:
    """Return a new temporary file, open to be written, and its name. It stays locked as long as this process lives."""
    while True:
        handle, name = tempfile.mkstemp(prefix=SPOOLED)
        lock = os.dup(handle)  # a lock of `flock` lasts until all copies of its handle are closed
        if _lock(lock) is not False and Path(name).exists():  # not removed between making and locking
            _LOCKS.append(lock)
            return handle, name
        os.close(lock)
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that were killed: those that no process has locked."""
    for path in folder.glob(f"{SPOOLED}*"):
        with suppress(OSError):  # another user's, or gone already
            handle = os.open(path, os.O_RDWR)
            try:
                if _lock(handle):
                    path.unlink()
            finally:
                os.close(handle)


def _lock(handle: int) -> bool | None:
    """Return whether a file could be locked, False where another process has locked it; None where there are no such
    locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


def _sources(
    path: str,
    name: str,
    named: bool,
    options: SourceOptions,
    skipped: list[str],
    large_bytes: int,
    most_bytes: int | None,
) -> list[Source]:
    shown = name or path
    try:
        size = Path(path).stat().st_size
        with Path(path).open("rb") as raw:
            compression = sniff_compression(raw.read(16))
    except OSError as error:
        raise UserError(f"{shown} cannot be read: {error.strerror or error}.") from error
    with open_binary(path, compression) as stream:
        head = stream.read(HEAD_BYTES)
        # Complete the last line of the head, to distinguish a long record from a broken one.
        head += stream.readline(_HEAD_LINE_BYTES) if len(head) == HEAD_BYTES else b""
    if not head:
        skipped.append(f"{shown}: empty")
        return []
    encoding = Encoding()
    kind, refusal = _binary_kind(shown, path, head, compression, options)
    if not kind and not refusal:
        try:
            encoding = decide_encoding(path, compression, options.encoding, shown, _most_bytes(compression, most_bytes))
        except EncodingError as error:
            # An encoding that the user named is for all files, so one that is not in it is an error.
            if named or options.encoding is not None:
                raise
            skipped.append(Problem(error.template.replace(f"{shown} ", f"{shown}: ", 1)))
            return []
        if encoding.nuls > _MOST_CONTROLS * size:
            refusal = _BINARY
        else:
            kind, refusal = _text_kind(shown, head.decode(encoding.codec, "ignore").removeprefix("\ufeff"), options)
    if refusal and named:
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
        )
        for start, end in ranges
    ]


def _most_bytes(compression: str, most_bytes: int | None) -> int | None:
    if not compression:
        return most_bytes
    return COMPRESSED_BYTES if most_bytes is None else min(COMPRESSED_BYTES, most_bytes)


def _binary_kind(name: str, path: str, head: bytes, compression: str, options: SourceOptions) -> tuple[str, str]:
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
    for signature, what in _SIGNATURES:
        if re.match(signature, head, re.DOTALL):
            return "", f"{what}, not text: convert or unpack it to plain text first"
    if head[257:262] == b"ustar" and b"\0" in head[262:512]:
        return "", "a tar archive: unpack it first"
    if b"<mediawiki" in head[:4000]:
        return "mediawiki", ""
    wide = bom_encoding(head) or wide_encoding(head) or is_wide(check_encoding(options.encoding))
    if controls > _MOST_CONTROLS * len(head[:_SAMPLE]) and not wide:
        return "", _BINARY
    return "", ""


def _controls(head: bytes) -> int:
    return len(re.findall(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", head[:_SAMPLE]))


def _text_kind(name: str, text: str, options: SourceOptions) -> tuple[str, str]:
    """Return (kind, "") of a text by its name and its beginning, or ("", reason why it cannot be read)."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes]
    if suffixes and suffixes[-1] in SUFFIXES:
        suffixes.pop()
    suffix = suffixes[-1] if suffixes else ""
    if "<mediawiki" in text[:4000]:
        return "mediawiki", ""
    if re.match(r"\s*<doc id=", text):
        return "wikiextractor", ""
    if table_kind(name) == "jsonl":
        return "jsonl", ""
    if suffix == ".json":
        return "jsonl" if is_json_lines(text, options.columns) else "json", ""
    if table_kind(name) in ("csv", "tsv"):
        return table_kind(name), ""
    if suffix in (".parquet", ".pq"):
        return "", "named like a Parquet file but is not one: rename it"
    if re.match(r"\s*(?:<!doctype html|<html|<\?xml|<svg)", text, re.IGNORECASE):
        return "", "HTML or XML, not plain text: convert it first (of XML, only MediaWiki dumps are read)"
    return "jsonl" if is_json_lines(text, options.columns) else "text", ""


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
