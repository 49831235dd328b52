"""Decodes bytes to text as a stream, with errors that name the byte and an encoding that fits.

`read_text` yields pieces of decoded text whose boundaries mean nothing; `lines` and `whole_lines` cut them at line
ends. Not here: which encoding a file is in (`encodings`), cleaning of characters and paragraphs (`clean`),
decompression (`compression`).
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator

from blankfill.corpus.compression import open_binary
from blankfill.corpus.encodings import REPLACE, bom_encoding, decide_encoding, is_utf8, undecodable
from blankfill.corpus.limits import LONGEST_RECORD, too_long
from blankfill.errors import UserError, setting

CHUNK_BYTES = 1 << 17
LONGEST_LINE = 1 << 17
"""Number of characters after which `whole_lines` cuts a line, so that a file without line ends streams too."""


def read_text(
    path: str,
    compression: str = "",
    encoding: str | None = None,
    start: int = 0,
    end: int | None = None,
    name: str = "",
) -> Iterator[str]:
    """Yield the decoded text of bytes [start, end) of a file in pieces, without byte-order mark and NUL characters.

    encoding: the `name` of an `Encoding`, or of a codec; with "-replace" at its end, bytes that do not decode become
    U+FFFD; None decides (`encodings`), which reads the file once more. Raises UserError naming the file (as `name`, or
    its path) and the offset of the first byte that does not decode, with an encoding that fits where there is one.
    """
    name = name or path
    encoding = decide_encoding(path, compression, name=name).name if encoding is None else encoding
    codec = "utf-8" if is_utf8(encoding) else encoding.removesuffix(REPLACE)
    decoder = codecs.getincrementaldecoder(codec)("replace" if encoding.endswith(REPLACE) else "strict")
    with open_binary(path, compression) as stream:
        if start:
            stream.seek(start)
        fed, first = start, start == 0
        while True:
            size = CHUNK_BYTES if end is None else min(CHUNK_BYTES, end - fed)
            data = stream.read(size) if size > 0 else b""
            if first and is_utf8(encoding) and bom_encoding(data):
                raise UserError(
                    f"{name} begins with a {bom_encoding(data).upper()} byte-order mark: pass "
                    f"{setting('encoding', bom_encoding(data))}."
                )
            fed += len(data)
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                # The decoder's object also holds the bytes it kept from the piece before.
                offset, byte = fed - len(error.object) + error.start, error.object[error.start]
                raise UserError(_bad_byte(path, compression, encoding, name, offset, byte)) from error
            except UnicodeError as error:
                raise UserError(undecodable(name, encoding, data, error)) from error
            if first:
                text = text.removeprefix("\ufeff")
                first = False
            if "\0" in text:  # no text holds it, and it would end a cell of a table
                text = text.replace("\0", "")
            if text:
                yield text
            if not data:
                return


def _bad_byte(path: str, compression: str, encoding: str, name: str, offset: int, byte: int) -> str:
    """Return the sentence for a byte that does not decode; it names an encoding only where the whole file is in it."""
    where = f"{name} is not {encoding}: byte {offset} (0x{byte:02x}) does not decode"
    try:
        decided = decide_encoding(path, compression, name=name)
    except UserError:
        return f"{where}: give the file's own encoding with {setting('encoding')}, or save the file as UTF-8."
    if decided.damaged:
        advice = (
            f"correct or remove the damaged bytes, or give {setting('encoding', decided.name)} to read them as U+FFFD"
        )
        return f"{where}, though the text around it is {decided.codec}: {advice}."
    if decided.codec == "utf-8":
        return f"{where}; it is UTF-8, so leave {setting('encoding')} out."
    return f"{where}; it looks like {decided.codec}, so give {setting('encoding', decided.codec)}."


def lines(
    pieces: Iterator[str], where: str | Callable[[int], str] = "the text", longest: int = LONGEST_RECORD
) -> Iterator[str]:
    r"""Yield the lines of a text given in pieces, cut at "\n" only and without it; the last line may lack it.

    where: the name of the text, or a function from a line number (from 1) to a name. Raises UserError for a line of
    more than `longest` characters, before all of it is in memory.
    """
    parts: list[str] = []
    size, number = 0, 1
    for piece in pieces:
        head, line_end, rest = piece.partition("\n")
        parts.append(head)
        size += len(head)
        if size > longest:
            place = f"{where}, line {number}" if isinstance(where, str) else where(number)
            raise too_long(place, longest, "split that line, or leave it out")
        if not line_end:
            continue
        yield "".join(parts)
        *middle, last = rest.split("\n")
        yield from middle
        parts, size, number = [last], len(last), number + len(middle) + 1
    if any(parts):
        yield "".join(parts)


def whole_lines(pieces: Iterator[str], longest: int = LONGEST_LINE) -> Iterator[str]:
    """Yield the same text in pieces that end at line ends, except where a line is longer than `longest` characters.

    A carriage return is never separated from its line feed.
    """
    parts: list[str] = []
    size = 0
    for piece in pieces:
        cut = max(piece.rfind("\n"), piece.rfind("\r", 0, len(piece) - 1)) + 1
        if cut:
            parts.append(piece[:cut])
            yield "".join(parts)
            parts, size = [piece[cut:]], len(piece) - cut
        else:
            parts.append(piece)
            size += len(piece)
        if size > longest:
            text = "".join(parts)
            cut = max(text.rfind(" "), text.rfind("。"), text.rfind("，")) + 1 or len(text)
            yield text[:cut] + "\n"
            parts, size = [text[cut:]], len(text) - cut
    if any(parts):
        yield "".join(parts)
