"""Decodes bytes to text as a stream: encodings, byte-order marks, and helpful errors for a file in another encoding.

`read_text` yields pieces of decoded text whose boundaries mean nothing; `lines` and `whole_lines` cut them at line
ends. Not here: cleaning of characters and paragraphs (`clean`), or decompression (`compression`).
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from typing import BinaryIO

from blankfill.corpus.compression import open_binary
from blankfill.corpus.limits import LONGEST_RECORD, too_long
from blankfill.errors import UserError, setting

CHUNK_BYTES = 1 << 17
LONGEST_LINE = 1 << 17
"""Number of characters after which `whole_lines` cuts a line, so that a file without line ends streams too."""

_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_COMMON_HAN = frozenset(
    "的一是不了人我在有他这這为為之大来來以个個中上们們到说說国國和地也子时時道出而要于就下得可你年生"
)


def check_encoding(encoding: str) -> str:
    """Return the codec's canonical name; UserError for a name that Python does not know as a text encoding."""
    try:
        codec = codecs.lookup(encoding)
        "".encode(encoding)
        bytes(range(256)).decode(encoding, "ignore")  # codecs of domain names, for example, cannot
    except (LookupError, UnicodeError) as error:
        raise UserError(
            f"{setting('encoding', encoding)} is not a known text encoding: use a name such as utf-8, utf-16, "
            "gb18030, big5, "
            f"shift_jis or latin-1."
        ) from error
    return codec.name


def is_utf8(encoding: str) -> bool:
    """Return whether `encoding` names UTF-8, with or without a byte-order mark."""
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig", "ascii")


def bom_encoding(head: bytes) -> str:
    """Return the encoding that a UTF-16 or UTF-32 byte-order mark announces, or ""."""
    return next((name for bom, name in _BOMS if head.startswith(bom)), "")


def read_text(
    path: str, compression: str = "", encoding: str = "utf-8", start: int = 0, end: int | None = None, name: str = ""
) -> Iterator[str]:
    """Yield the decoded text of bytes [start, end) of a file in pieces, without the byte-order mark.

    Raises UserError naming the file (as `name`, or its path) and the offset of the first byte that does not decode,
    with a likely encoding where one can be guessed.
    """
    with open_binary(path, compression) as stream:
        if start:
            stream.seek(start)
        yield from _decode(stream, encoding, name or path, start, end)


def _decode(stream: BinaryIO, encoding: str, name: str, start: int, end: int | None) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8" if is_utf8(encoding) else encoding)("strict")
    fed = start
    first = start == 0
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
            raise UserError(
                _bad_byte(name, encoding, fed - len(error.object) + error.start, error.object, error.start)
            ) from error
        except UnicodeError as error:
            raise UserError(_undecodable(name, encoding, data, error)) from error
        if first:
            text = text.removeprefix("\ufeff")
            first = False
        if text:
            yield text
        if not data:
            return


def _bad_byte(name: str, encoding: str, offset: int, data: bytes, at: int) -> str:
    where = f"{name} is not {encoding}: byte {offset} (0x{data[at]:02x}) does not decode"
    guess = guess_encoding(data)
    if guess == "utf-8" and not is_utf8(encoding):
        return f"{where}; it looks like UTF-8, so leave {setting('encoding')} out."
    if guess == "utf-8":
        return f"{where}, though the text around it does: repair or remove the damaged bytes there."
    if guess and guess != codecs.lookup(encoding).name:
        return f"{where}; it looks like {guess}, so pass {setting('encoding', guess)}."
    return f"{where}: pass the file's own encoding with {setting('encoding')}."


def _undecodable(name: str, encoding: str, data: bytes, error: UnicodeError) -> str:
    """Return the error for a text that the codec refuses as a whole, such as UTF-16 of unknown byte order."""
    if not re.match(r"utf-(?:16|32)$", family := codecs.lookup(encoding).name):
        return f"{name} is not {encoding} ({error}): pass the file's own encoding with {setting('encoding')}."
    # Letters of most scripts have a zero upper half, and so have line ends and spaces in all scripts.
    ends = data[0::4].count(0), data[3::4].count(0)
    orders = ["le"] if ends[1] > 2 * ends[0] else ["be"] if ends[0] > 2 * ends[1] else ["le", "be"]
    first, *others = [f"{family}-{order}" for order in orders]
    return (
        f"{name} has no byte-order mark, without which {encoding} cannot be read: pass "
        f"{' or '.join([setting('encoding', first), *others])}."
    )


def guess_encoding(data: bytes) -> str:
    """Return a likely encoding of `data`, which is not in the expected one; "" when none is convincing.

    Distinguishes a handful of encodings of old text files by how common the decoded characters are. The guess is good
    enough for the wording of an error; no text is read with it.
    """
    if bom_encoding(data):
        return bom_encoding(data)
    high = sum(byte >= 0x80 for byte in data)
    well_formed = len(re.findall("[^\x00-\x7f\ufffd]", data.decode("utf-8", "replace")))
    if well_formed >= 10 and well_formed * 2 > high * 0.6:
        return "utf-8"
    best, best_score = "", 0.0
    for candidate in ("gb18030", "big5", "shift_jis", "euc_jp", "euc_kr"):
        text = data.decode(candidate, "replace")
        foreign = re.findall("[^\x00-\x7f]", text)
        if not foreign or text.count("\ufffd") > 2 + len(foreign) * 0.01:
            continue
        common = sum(character in _COMMON_HAN for character in foreign)
        kana = sum("\u3040" <= character <= "\u30ff" for character in foreign)
        hangul = sum("\uac00" <= character <= "\ud7a3" for character in foreign)
        script = {"gb18030": common, "big5": common, "euc_kr": hangul}.get(candidate, kana)
        score = script / len(foreign)
        if score > max(best_score, 0.6 if candidate == "euc_kr" else 0.05):
            best, best_score = candidate, score
    if best:
        return best
    if 0 < high < len(data) * 0.2:
        return "cp1252" if re.search(rb"[\x80-\x9f]", data) else "latin-1"
    return ""


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
