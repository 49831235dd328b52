"""Decides in which encoding a text file is, before a character of it is read.

`decide_encoding` reads the bytes of a file once, in pieces, and returns an `Encoding`: by the byte-order mark; UTF-8
where all bytes are; UTF-8 with damaged bytes where nearly all of them are; otherwise a guess (of charset-normalizer,
among the encodings of old text files) that decodes the file as a whole into plausible text. An encoding that the user
names is for the files that are not UTF-8: valid UTF-8 with characters beyond ASCII is UTF-8, since no other encoding
gives such bytes by chance.

A few damaged bytes become U+FFFD and are reported with their lines: they have no character, their place stays visible,
and one damaged page does not stop the preparation of all others. More than that is an error, unless the encoding is
named with "-replace" at its end (`utf-8-replace`). Named without it, an encoding is strict.

Not here: what is plausible text (`guesses`), decoding (`decoding`), what kind of file it is (`sources`).
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal

from blankfill.corpus.compression import open_binary
from blankfill.corpus.faults import SourceError
from blankfill.corpus.guesses import guesses, is_plausible
from blankfill.errors import Problem, UserError, setting

REPLACE = "-replace"
"""End of an encoding's name that makes U+FFFD of the bytes that do not decode."""
CHUNK_BYTES = 1 << 17
SAMPLE_BYTES = 1 << 16
"""Bytes of words with non-ASCII bytes that a guess is made from."""
FEW_DAMAGED = (3, 0.001)
"""Damaged bytes that are replaced without an option: this number, or this share of a file's bytes if it is more."""
_EXAMPLES = 5
_NEIGHBOURS = 3

_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class Encoding:
    """How a file is decoded.

    name: the codec, with "-replace" where bytes that do not decode become U+FFFD. source: what decided, "user", "mark"
    (byte-order mark), "utf-8" or "guess". damaged, nuls: numbers of damaged places and of NUL characters.
    damaged_lines, nul_lines: the lines (from 1) of the first few. ignored: the encoding that the user named, where
    the file is in another. likelier: another encoding in which the file makes plausible text, where the one that the
    user named gives odd characters.
    """

    name: str = "utf-8"
    source: Literal["user", "mark", "utf-8", "guess"] = "utf-8"
    damaged: int = 0
    damaged_lines: tuple[int, ...] = ()
    nuls: int = 0
    nul_lines: tuple[int, ...] = ()
    ignored: str = ""
    likelier: str = ""

    @property
    def codec(self) -> str:
        """The name of the codec alone."""
        return self.name.removesuffix(REPLACE)

    @property
    def shown(self) -> str:
        """The name of the codec for a sentence."""
        return self.codec.upper() if self.codec.startswith("utf") else self.codec

    def remarks(self, name: str) -> list[str]:
        """Return a sentence for each thing that the user has to know about the file `name`."""
        return grouped_remarks([(name, self)])


def grouped_remarks(files: Iterable[tuple[str, Encoding]]) -> list[str]:
    """Return a sentence for each thing that the user has to know about each of the named files; of many files that have
    the same in common, only the first few have a sentence of their own."""
    by_kind: dict[str, list[str]] = {}
    for name, encoding in files:
        for kind, sentence in _remarks(name, encoding):
            by_kind.setdefault(kind, []).append(sentence)
    sentences: list[str] = []
    for kind, of_kind in by_kind.items():
        sentences += map(Problem, of_kind[:_EXAMPLES])
        if len(of_kind) > _EXAMPLES:
            sentences.append(f"{len(of_kind) - _EXAMPLES:,} more files {kind}.")
    return sentences


def _remarks(name: str, encoding: Encoding) -> Iterator[tuple[str, str]]:
    """Yield (what many files have in common, the sentence about this one)."""
    shown = encoding.shown
    if encoding.ignored:
        yield (
            f"are not in {encoding.ignored} and were read as what they are",
            f"{name} is {shown} and was read as such, not as {encoding.ignored}.",
        )
    if encoding.likelier:
        yield (
            f"were read as {shown}, and look like {encoding.likelier}",
            f"{name} was read as {shown}, and looks like {encoding.likelier}: if its text is wrong, give "
            f"{setting('encoding', encoding.likelier)}, or leave {setting('encoding')} out.",
        )
    if encoding.source == "guess":
        yield (
            f"were read as {shown}, which is a guess",
            f"{name} was read as {shown}, which is a guess: if its text is wrong, give {setting('encoding')}.",
        )
    if encoding.damaged:
        yield (
            "have damaged bytes, which were read as U+FFFD",
            f"{name} is {shown} with {_counted(encoding.damaged, 'damaged byte')} "
            f"({_lines(encoding.damaged_lines, encoding.damaged)}), read as U+FFFD: correct the file if that matters, "
            f"or give {setting('encoding', encoding.codec)} to stop at them.",
        )
    if encoding.nuls:
        yield (
            "hold NUL characters, which were left out",
            f"{name} holds {_counted(encoding.nuls, 'NUL character')} ({_lines(encoding.nul_lines, encoding.nuls)}), "
            f"which {'was' if encoding.nuls == 1 else 'were'} left out.",
        )


class EncodingError(SourceError):
    """A file whose encoding is not known, or that is not in the encoding that the user named."""


def check_encoding(encoding: str | None) -> str:
    """Return the codec's canonical name ("" for None, which means that it is decided for each file); UserError for a
    name that Python does not know as a text encoding."""
    if encoding is None:
        return ""
    try:
        codec = codecs.lookup(encoding.removesuffix(REPLACE))
        "".encode(codec.name)
        bytes(range(256)).decode(codec.name, "ignore")  # codecs of domain names, for example, cannot
    except (LookupError, UnicodeError) as error:
        raise UserError(
            f"{setting('encoding', encoding)} is not a known text encoding: use a name such as utf-8, utf-16, "
            "gb18030, big5, shift_jis, cp1251 or latin-1, or leave it out."
        ) from error
    return codec.name


def is_utf8(encoding: str) -> bool:
    """Return whether `encoding` names UTF-8, with or without a byte-order mark."""
    return codecs.lookup(encoding.removesuffix(REPLACE)).name in ("utf-8", "utf-8-sig", "ascii")


def is_wide(codec: str) -> bool:
    """Return whether a canonical name is of UTF-16 or UTF-32, whose texts are full of zero bytes."""
    return codec.startswith(("utf-16", "utf-32"))


def bom_encoding(head: bytes) -> str:
    """Return the encoding that a UTF-16 or UTF-32 byte-order mark announces, or ""."""
    return next((name for bom, name in _BOMS if head.startswith(bom)), "")


def wide_encoding(head: bytes) -> str:
    """Return the encoding of UTF-16 without a byte-order mark: every other byte of its spaces and letters is zero."""
    sample = head[:4096]
    halves = sample[::2], sample[1::2]
    for half, other, name in ((halves[1], halves[0], "utf-16-le"), (halves[0], halves[1], "utf-16-be")):
        if len(half) > 1 and half.count(0) > 0.9 * len(half) and other.count(0) < 0.1 * len(other):
            return name
    return ""


def decide_encoding(
    path: str, compression: str = "", wanted: str | None = None, name: str = "", most_bytes: int | None = None
) -> Encoding:
    """Return the encoding of a text file, read once from its beginning in pieces of bounded size.

    wanted: the encoding that the user named; None decides. most_bytes: number of (unpacked) bytes to look at; None is
    all. Raises EncodingError naming the file (as `name`, or its path), the line and the remedy.
    """
    name = name or path
    codec = check_encoding(wanted)
    pieces = _pieces(path, compression, most_bytes)
    first = next(pieces, b"")
    wide = is_wide(codec)
    if bom := bom_encoding(first):
        return Encoding(bom, "mark", ignored=wanted or "" if codec and not wide else "")
    if not wide and (unmarked := wide_encoding(first)):
        return Encoding(unmarked, "guess", ignored=wanted or "")
    scan = _Scan("utf-8")
    if not wide:
        scan.read(chain((first,), pieces))
    facts = _Facts(path, compression, scan)
    if codec and not is_utf8(codec) and not _is_utf8_after_all(scan, codec):
        return _named(wanted or "", codec, name, path, compression, most_bytes, scan)
    ignored = wanted or "" if codec and not is_utf8(codec) else ""
    if not scan.damaged:
        return facts.encoding("utf-8", "user" if codec and not ignored else "utf-8", ignored)
    if codec and not ignored:
        if str(wanted).endswith(REPLACE):
            return facts.encoding(f"utf-8{REPLACE}", "user", "")
        raise EncodingError(_refusal(name, "utf-8", facts, _guess(path, compression, most_bytes, scan)))
    if scan.mostly_decodes() and scan.few_damaged():
        return facts.encoding(f"utf-8{REPLACE}", "utf-8", ignored)
    if not scan.mostly_decodes():
        guess = _guess(path, compression, most_bytes, scan)
        if guess is not None:
            return guess
        if scan.few_damaged() and not scan.extra:  # ASCII but for a few bytes that mean nothing in any encoding
            return facts.encoding(f"utf-8{REPLACE}", "utf-8", ignored)
    raise EncodingError(_refusal(name, "", facts, None))


class _Scan:
    """Counts what a codec makes of the bytes of a file.

    total: bytes. extra: bytes beyond one for each character, so of characters beyond ASCII. damaged: places that do not
    decode. places, nul_places: offsets of the first few.
    """

    def __init__(self, codec: str) -> None:
        self.codec = codec
        self.total = self.extra = self.damaged = self.nuls = 0
        self.places: list[int] = []
        self.nul_places: list[int] = []
        self.sample: list[bytes] = []
        self._sampled = 0

    def read(self, pieces: Iterator[bytes]) -> None:
        """Read all pieces of a file; the last one is empty."""
        if self.codec != "utf-8":
            self._read_other(pieces)
            return
        held = b""
        for piece in pieces:
            self._count_nuls(piece)
            if not held and piece and piece.isascii():
                self.total += len(piece)
                continue
            data = held + piece
            try:
                text, used = codecs.utf_8_decode(data, "strict", not piece)
            except UnicodeDecodeError as error:
                text, used = codecs.utf_8_decode(data, "replace", not piece)
                self.damaged += text.count("\ufffd") - data.count(b"\xef\xbf\xbd", 0, used)
                self._find_places(data[:used], error)
                self._add_sample(data)
            self.extra += used - len(text)
            self.total += used
            held = data[used:]

    def _read_other(self, pieces: Iterator[bytes]) -> None:
        decoder = codecs.getincrementaldecoder(self.codec)("replace")
        for piece in pieces:
            self._count_nuls(piece)
            text = decoder.decode(piece, final=not piece)
            self.damaged += text.count("\ufffd")
            self.extra += 0 if text.isascii() else len(text) - len(text.encode("ascii", "ignore"))
            self.total += len(piece)

    def _count_nuls(self, piece: bytes) -> None:
        if self.codec == "utf-8" and b"\0" in piece:
            self.nuls += piece.count(0)
            at = self.total
            offsets = (match.start() for match in re.finditer(b"\0", piece))
            self.nul_places += [at + place for place in islice(offsets, _EXAMPLES - len(self.nul_places))]

    def _find_places(self, data: bytes, error: UnicodeDecodeError) -> None:
        at = 0
        while len(self.places) < _EXAMPLES:
            self.places.append(self.total + at + error.start)
            at += error.end
            try:
                data[at:].decode("utf-8")
                return
            except UnicodeDecodeError as following:
                error = following

    def _add_sample(self, data: bytes) -> None:
        """Keep words with non-ASCII bytes and a few neighbours; white space is never half of a character."""
        if self._sampled >= SAMPLE_BYTES:
            return
        words = re.findall(rb"[^ \n\r\t]+[ \n\r\t]*", data)
        wanted: set[int] = set()
        for number, word in enumerate(words):
            if not word.isascii():
                wanted.update(range(max(0, number - _NEIGHBOURS), min(len(words), number + _NEIGHBOURS + 1)))
        sampled = b"".join(words[number] for number in sorted(wanted))[: SAMPLE_BYTES - self._sampled]
        self.sample.append(sampled)
        self._sampled += len(sampled)

    def mostly_decodes(self) -> bool:
        """Return whether far more characters beyond ASCII decode than places do not."""
        return self.extra >= 2 * self.damaged

    def few_damaged(self) -> bool:
        """Return whether the damaged places are so few that they may be replaced without an option."""
        most, share = FEW_DAMAGED
        return self.damaged <= max(most, share * self.total)


@dataclass(frozen=True)
class _Facts:
    """A scanned file: its counts, with lines for places."""

    path: str
    compression: str
    scan: _Scan

    def encoding(self, name: str, source: Literal["user", "mark", "utf-8", "guess"], ignored: str) -> Encoding:
        """Return a decision with the facts of the scan."""
        lines = self._lines(self.scan.places) if name.endswith(REPLACE) else ()
        damaged = self.scan.damaged if name.endswith(REPLACE) else 0
        nul_lines = self._lines(self.scan.nul_places)
        return Encoding(name, source, damaged, lines, self.scan.nuls, nul_lines, ignored)

    def damaged_lines(self) -> tuple[int, ...]:
        """Return the lines of the first damaged places."""
        return self._lines(self.scan.places)

    def _lines(self, places: list[int]) -> tuple[int, ...]:
        if not places:
            return ()
        lines, line, at = [], 1, 0
        with open_binary(self.path, self.compression) as stream:
            for place in places:
                while at < place:
                    data = stream.read(min(CHUNK_BYTES, place - at))
                    if not data:
                        break
                    line += data.count(b"\n")
                    at += len(data)
                lines.append(line)
        return tuple(lines)


def _pieces(path: str, compression: str, most_bytes: int | None) -> Iterator[bytes]:
    """Yield the bytes of a file, then an empty piece; without it where only `most_bytes` are read, as the last
    character may be cut."""
    left = most_bytes
    with open_binary(path, compression) as stream:
        while left is None or left > 0:
            data = stream.read(CHUNK_BYTES if left is None else min(CHUNK_BYTES, left))
            yield data
            if not data:
                return
            left = None if left is None else left - len(data)


def _is_utf8_after_all(scan: _Scan, codec: str) -> bool:
    """Return whether a file of which the user named another encoding is UTF-8.

    A few characters of Chinese, Japanese or Korean encodings may be valid UTF-8 by chance; letters of the others are
    not, since UTF-8 puts their capital letters before control characters and signs.
    """
    single = len("\ufffd".encode(codec, "replace")) == 1 and len(bytes(range(161, 255)).decode(codec, "replace")) == 94
    return scan.extra >= (1 if single else 16) and scan.mostly_decodes()


def _named(
    wanted: str, codec: str, name: str, path: str, compression: str, most_bytes: int | None, utf8: _Scan
) -> Encoding:
    """Return the encoding that the user named if the file decodes with it; raise EncodingError otherwise."""
    facts = _Facts(path, compression, utf8)
    try:
        own = _Scan(codec)
        own.read(_pieces(path, compression, most_bytes))
    except UnicodeError as error:  # UTF-16 of unknown byte order, for example
        raise EncodingError(undecodable(name, codec, _head(path, compression), error)) from error
    nul_lines = facts.encoding("utf-8", "user", "").nul_lines
    damaged = own.damaged if wanted.endswith(REPLACE) else 0
    sample = b"".join(utf8.sample)
    likelier = "" if is_wide(codec) or is_plausible(sample, codec) else next(iter(guesses(sample)), "")
    return Encoding(wanted, "user", damaged, (), utf8.nuls, nul_lines, likelier=likelier)


def _head(path: str, compression: str) -> bytes:
    with open_binary(path, compression) as stream:
        return stream.read(4096)


def _guess(path: str, compression: str, most_bytes: int | None, scan: _Scan) -> Encoding | None:
    """Return the encoding that makes plausible text of the whole file, None when none does."""
    for codec in guesses(b"".join(scan.sample)):
        whole = _Scan(codec)
        whole.read(_pieces(path, compression, most_bytes))
        most, share = FEW_DAMAGED
        # One damaged byte may take its neighbours with it.
        if whole.damaged <= max(most if whole.damaged * 50 < whole.extra else 0, share * whole.extra):
            facts = _Facts(path, compression, scan)
            nul_lines = facts.encoding("utf-8", "guess", "").nul_lines
            name = f"{codec}{REPLACE}" if whole.damaged else codec
            return Encoding(name, "guess", whole.damaged, (), scan.nuls, nul_lines)
    return None


def _refusal(name: str, wanted: str, facts: _Facts, guess: Encoding | None) -> str:
    """Return the sentence for a file that is not UTF-8."""
    scan = facts.scan
    count = _counted(scan.damaged, "byte")
    lines = _lines(facts.damaged_lines(), scan.damaged)
    if guess is not None and not scan.mostly_decodes():
        return (
            f"{name} is not UTF-8 ({lines}): it looks like {guess.codec}, so give {setting('encoding', guess.codec)}."
        )
    replace = setting("encoding", f"utf-8{REPLACE}")
    if scan.mostly_decodes():
        return (
            f"{name} is UTF-8 but for {count} ({lines}): correct or remove the damaged bytes, or give {replace} to "
            "read them as U+FFFD."
        )
    mixed = " It holds UTF-8 as well, as when files in several encodings were joined." if scan.extra > 20 else ""
    return (
        f"{name} is in an encoding that is not recognised ({count} are not UTF-8, {lines}): give the file's own "
        f"encoding with {setting('encoding')}, or save it as UTF-8.{mixed}"
    )


def undecodable(name: str, encoding: str, data: bytes, error: UnicodeError) -> str:
    """Return the sentence for a text that the codec refuses as a whole, such as UTF-16 of unknown byte order."""
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


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _lines(lines: tuple[int, ...], count: int) -> str:
    if not lines:
        return "in several lines"
    few = sorted(set(lines))
    return f"line{'' if len(few) == 1 else 's'} {', '.join(f'{line:,}' for line in few)}" + (
        ", …" if count > len(lines) else ""
    )
