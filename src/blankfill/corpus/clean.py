r"""Decoded text to clean paragraphs: characters, hard wraps, verse, Project Gutenberg's header and footer.

**Characters.** NFC; every line end (CRLF, CR, form feed, U+0085, U+2028, U+2029) becomes a line feed; control
characters and invisible junk go (soft hyphen, zero-width space, word joiner, byte-order marks, bidirectional marks),
and private-use characters, which mean nothing without the font they were made for; ZWJ and ZWNJ stay, since Persian,
Indic scripts and emoji are spelt with them; U+FFFD stays; a lone surrogate becomes one. Every run of white space (tab,
U+00A0, U+3000, …) is one space. Markdown fences and inline formatting tags (`<strong>`, `<br>`) go, and so do
paragraphs of nothing but rules and asterisks.

**Hard wraps.** Text comes in two shapes: a paragraph a line, or lines filled up to a margin. Filled lines have a
signature: a line ends where the *next* line's first word would not have fitted. `wrap_width` looks for this signature
in the first 64 thousand characters: the margin is the 95th percentile of the lines that another line follows; the text
is hard-wrapped when most such lines are full in that sense, few of them end a sentence, and, in scripts with case, many
begin in lower case. Verse, lists and word-per-line files fail at least one of these tests, so each of their lines stays
a paragraph.

In a hard-wrapped text a blank line ends a paragraph, an indented line begins one, a list item begins one, and a line
that stops well short of the margin ends one unless the next line begins in lower case. A block set off by indentation
(quotations, letters, verse) is judged separately: lower-case continuations mean prose, otherwise lines stay apart.

**Joining** puts a space, except between characters of scripts that are written without spaces (Han, kana, Thai, …), and
after a hyphen or a dash at the line end.

Everything streams: memory holds a few pieces of text, whatever the size of the file. Not here: sentences, duplicates.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import chain, groupby

from blankfill.system.reading import LONE_SURROGATE

SAMPLE_CHARS = 1 << 16
LONGEST_BLOCK = 1 << 16
"""Number of characters after which a block without a blank line is yielded in parts."""

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff01-\uff9f\U00020000-\U0003ffff"
)
_UNSPACED_CHARACTER = re.compile(f"[{_UNSPACED}]")
_NEWLINES = str.maketrans("\x0b\x0c\x85\u2028", "\n\n\n\n")
_RARE_NEWLINE = re.compile("[\x0b\x0c\x85\u2028\u2029]")
_ASCII_TABLE = bytes.maketrans(b"\x0b\x0c", b"\n\n")
_ASCII_JUNK = bytes([*range(9), *range(14, 32), 127])
_JUNK = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f"
    "\ue000-\uf8ff\ufeff\ufff9-\ufffb]"
)
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[^\n`]*$", re.MULTILINE)
_TAG = re.compile(
    r"</?(?:strong|b|em|i|u|s|p|span|font|center|div|h[1-6]|small|big|sup|sub|a|hr)(?:\s[^<>\n]{0,300})?/?>",
    re.IGNORECASE,
)
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_FOLLOWED_LINE = re.compile(r"\n(?<=[^\n]\n)[^\n]")
_BLANK = re.compile(r"\n(?:[^\S\n]*\n)+")
_ORNAMENT = re.compile(r"[\s*=_~#\-+.·•—–─━═|/\\^<>]+")
_LIST_ITEM = re.compile(
    r"\s*(?:[-*•‣◦·]\s|#{1,6}\s|\(?(?:\d{1,3}|[a-zA-Z]|[ivxIVX]{1,5})\)\s|(?:\d{1,2}|[ivxlIVXL]{1,6})\.\s)"
)
_HEADING = re.compile(r"#{1,6}\s")
_MAYBE_LIST = re.compile(r"\n(?:[-*•‣◦·#]|\(?\w{1,5}[.)]\s)")
_TERMINAL = re.compile(r"[.!?。！？．…:：][\"'”’」』）)\]*_]*$")
_HYPHENATED = re.compile(r"(?<=[^\W\d_]-)\n\s*(?=[^\W\d_])|(?<=--)\n\s*|(?<=\S[—‐])\n\s*(?=\S)")
_SEAM = re.compile(
    f"(?<=[{_UNSPACED}])\n(?=[{_UNSPACED}0-9“”‘’…—·])|(?<=[0-9“”‘’…—·])\n(?=[{_UNSPACED}])|(?<=[”’…—])\n(?=[“‘…—])"
)
_OPENERS = "\"'“‘([_*"

_START = re.compile(r"^[ \t]*\*{3}[ \t]*START OF (?:THE|THIS) PROJECT GUTENBERG[^\n]*\n", re.MULTILINE | re.IGNORECASE)
_SMALL_PRINT = re.compile(r"^\*END[ *]*THE SMALL PRINT[^\n]*\n", re.MULTILINE | re.IGNORECASE)
_END = re.compile(
    r"^[ \t]*(?:\*{3}[ \t]*END OF (?:THE |THIS )?PROJECT GUTENBERG|End of (?:the |this )?Project Gutenberg['’ ])",
    re.MULTILINE | re.IGNORECASE,
)
_CREDIT = re.compile(
    r"\s*\[?(?:produced by|e-?text prepared by|this e-?(?:text|book) was|transcribed (?:from|by)|prepared by|scanned "
    r"|html version by|updated editions?|proofread|credits:|updated:)",
    re.IGNORECASE,
)


def characters(text: str, tags: bool = True) -> str:
    """Return `text`, cut at line ends, with its characters cleaned as described at the top of this file.

    tags: whether `<b>` and its like are formatting and not text.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.isascii():
        text = text.encode("ascii").translate(_ASCII_TABLE, _ASCII_JUNK).decode("ascii")
    else:
        if _RARE_NEWLINE.search(text):
            text = text.replace("\u2029", "\n\n").translate(_NEWLINES)
        text = LONE_SURROGATE.sub("\ufffd", _JUNK.sub("", text))
        text = normalized(text)
    if "```" in text or "~~~" in text:
        text = _FENCE.sub("", text)
    if tags and "<" in text:
        text = _TAG.sub(_untagged, _BREAK.sub("\n", text))
    return text


def _untagged(tag: re.Match[str]) -> str:
    return tag.group() if is_parameter(tag.string, tag.start(), tag.end()) else ""


def is_parameter(text: str, begin: int, end: int) -> bool:
    """Return whether a tag is the parameter of a type, as in `List<S>`: a single capital, glued to a word, and not
    closed near it."""
    if end - begin != 3 or not text[begin + 1].isupper() or not text[max(0, begin - 1) : begin].isalnum():
        return False
    following = re.compile(f"<(/?){text[begin + 1]}>", re.IGNORECASE).search(text, end, end + 2000)
    return following is None or not following.group(1)


def normalized(text: str) -> str:
    """Return `text` in NFC, in a time that is proportional to its length.

    `unicodedata` sorts the combining marks behind a letter by insertion, so a megabyte of marks would take a quarter of
    an hour. Long runs are sorted here first.
    """
    text = _many_marks().sub(_in_canonical_order, text)
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


@cache
def _many_marks() -> re.Pattern[str]:
    """Compile a pattern for more combining marks in a row than any language writes (UAX #15 allows 30 in a stream).

    Beyond U+FFFF the character class is coarser, which makes the search ten times as fast.
    """
    marks = (chr(code) for code in range(0x300, 0x10000) if not 0x3400 <= code < 0xA000 and code >> 11 != 27)
    marks_in_use = [mark for mark in marks if unicodedata.combining(unicodedata.normalize("NFD", mark)[0])]
    return re.compile(f"[{''.join(marks_in_use)}\U000101fd-\U0001efff]{{31,}}")


def _in_canonical_order(run: re.Match[str]) -> str:
    parts = chain.from_iterable(unicodedata.normalize("NFD", mark) for mark in run.group())
    runs = groupby(parts, lambda part: unicodedata.combining(part) > 0)
    return "".join(chain.from_iterable(sorted(few, key=unicodedata.combining) if marks else few for marks, few in runs))


def paragraphs(pieces: Iterable[str], strip: str = "none") -> Iterator[str]:
    """Yield the clean, non-empty paragraphs of one text, given in pieces that end at line ends.

    strip: "gutenberg" drops Project Gutenberg's header and footer, "none" nothing.
    """
    pieces, width = _prepared(pieces, strip)
    for block, _ in _blocks(pieces, width):
        yield from _block_paragraphs(block, width)


def documents(pieces: Iterable[str], strip: str = "none") -> Iterator[Iterator[str]]:
    """Yield the paragraphs of each block between blank lines as a document; consume the documents in order."""
    pieces, width = _prepared(pieces, strip)
    blocks = _blocks(pieces, width)
    for block, complete in blocks:
        document = _document(block, complete, blocks, width)
        # A block that holds only ornaments is not a document.
        if (head := next(document, None)) is not None:
            yield chain([head], document)
            for _ in document:
                pass


def _document(block: str, complete: bool, blocks: Iterator[tuple[str, bool]], width: int) -> Iterator[str]:
    yield from _block_paragraphs(block, width)
    while not complete:
        block, complete = next(blocks, ("", True))
        yield from _block_paragraphs(block, width)


def record_paragraphs(text: str) -> list[str]:
    """Return the clean paragraphs of a text that is already in memory, such as one record of a JSON Lines file."""
    text = characters(text)
    if "\n" not in text:
        return _tidy(text)
    width = wrap_width(text[:SAMPLE_CHARS])
    return [paragraph for block, _ in _blocks([text], width) for paragraph in _block_paragraphs(block, width)]


def _prepared(pieces: Iterable[str], strip: str) -> tuple[Iterator[str], int]:
    """Return the cleaned pieces and the margin of their beginning (0: not hard-wrapped)."""
    cleaned: Iterator[str] = map(characters, pieces)
    if strip == "gutenberg":
        cleaned = _without_gutenberg(cleaned)
    sample: list[str] = []
    size = 0
    for piece in cleaned:
        sample.append(piece)
        size += len(piece)
        if size >= SAMPLE_CHARS:
            break
    return chain(sample, cleaned), wrap_width("".join(sample)[:SAMPLE_CHARS])


def wrap_width(sample: str) -> int:
    """Return the margin, in columns, that a text is hard-wrapped to, or 0 when each line is a paragraph of its own.

    Columns are characters, or, in a text of wide (East Asian) characters, one for ASCII and two for others. The
    returned margin is negative for such a text: -76 means 76 columns counted that way.
    """
    if not _FOLLOWED_LINE.search(sample):
        return 0
    wide = not sample.isascii() and len(_UNSPACED_CHARACTER.findall(sample)) > 0.2 * len(sample)
    rows = [row.rstrip() for row in sample.split("\n")]
    if len(sample) >= SAMPLE_CHARS:
        rows.pop()
    pairs: list[tuple[int, int, bool, str]] = []
    set_off: list[tuple[int, int, bool, str]] = []
    all_columns: list[int] = []
    for row, follower in zip(rows, [*rows[1:], ""], strict=True):
        if not row:
            continue
        columns = _columns(row, wide)
        all_columns.append(columns)
        if not follower or (follower[0].isspace() and _indent(follower) > _indent(row)) or _LIST_ITEM.match(follower):
            continue
        word = 2 if wide else len(follower.split(None, 1)[0]) + 1
        pair = (columns, columns + word, bool(_TERMINAL.search(row)), follower.lstrip(_OPENERS + " \t")[:1])
        (set_off if row[0].isspace() and follower[0].isspace() else pairs).append(pair)
    # Quotations and verse set off by indentation have margins of their own, unless the whole text is indented.
    if len(pairs) * 4 < len(set_off):
        pairs += set_off
    if not pairs:
        return 0
    margin = sorted(pair[0] for pair in pairs)[int(0.95 * (len(pairs) - 1))]
    if not (55 if len(pairs) < 3 else 36) <= margin <= 240:
        return 0
    # Prose also has headings, names and verse: lines shorter than half the margin say nothing about filling.
    pairs = [pair for pair in pairs if pair[0] >= 0.5 * margin]
    full = sum(reach > 0.88 * margin for _, reach, _, _ in pairs) / len(pairs)
    terminal = sum(ended for _, _, ended, _ in pairs) / len(pairs)
    cased = [letter for *_, letter in pairs if letter.islower() or letter.isupper()]
    lower = sum(letter.islower() for letter in cased) / len(cased) if cased else 1.0
    overlong = sum(columns > 1.3 * margin for columns in all_columns) / len(all_columns)
    if full < 0.6 or terminal > 0.45 or (not wide and lower < 0.4) or overlong > 0.02:
        return 0
    return -margin if wide else margin


def _columns(row: str, wide: bool) -> int:
    if not wide or row.isascii():
        return len(row)
    return 2 * len(row) - len(row.encode("ascii", "ignore"))


def _indent(row: str) -> int:
    return len(row) - len(row.lstrip()) if row[:1].isspace() else 0


def _blocks(pieces: Iterable[str], width: int) -> Iterator[tuple[str, bool]]:
    """Yield the blocks between blank lines in parts, and with each part whether it completes its block."""
    rest = ""
    unfinished = False
    for piece in pieces:
        *complete, rest = _BLANK.split(rest + piece)
        for block in complete:
            if block or unfinished:
                yield block, True
            unfinished = False
        if len(rest) > LONGEST_BLOCK:
            # Keep the line end, in case a blank line follows.
            cut = len(rest.rstrip())
            if width:
                # The last paragraph may continue: keep it for the next part, unless it is the only paragraph.
                last = _groups(rest[:cut].split("\n"), width)[-1]
                cut = cut - sum(map(len, last)) - len(last) + 1 or cut
            yield rest[:cut], False
            rest = rest[cut:]
            unfinished = True
    if rest.strip():
        yield rest, True


def _block_paragraphs(block: str, width: int) -> Iterator[str]:
    block = block.strip("\n").rstrip()
    if "\n" not in block:
        yield from _tidy(block)
        return
    rows = block.split("\n")
    if not width:
        for row in rows:
            yield from _tidy(row)
        return
    if width > 0 and "\n " not in block and min(map(len, rows[:-1])) > 0.75 * width and not _MAYBE_LIST.search(block):
        yield from _tidy(join_lines(block))
        return
    for group in _groups(rows, width):
        yield from _tidy(join_lines("\n".join(group)))


def _groups(rows: list[str], width: int) -> list[list[str]]:
    """Return the lines of one block of a hard-wrapped text, grouped into paragraphs."""
    wide, margin = width < 0, abs(width)
    rows = [row.rstrip() for row in rows]
    if len(rows) == 1:
        return [rows]
    indents = [_indent(row) for row in rows]
    reach = [_columns(row, wide) for row in rows]
    starts = [row.lstrip(_OPENERS + " \t\u3000")[:1] for row in rows]
    set_off = min(indents) >= 2 or max(reach) < 0.85 * margin
    if wide:
        inner = max(reach[:-1]) - 4
        prose = sum(columns >= inner for columns in reach[:-1]) >= 0.6 * (len(rows) - 1)
        prose = prose and sum(bool(_TERMINAL.search(row)) for row in rows[:-1]) <= 0.4 * (len(rows) - 1)
    else:
        prose = sum(letter.islower() for letter in starts[1:]) >= 0.3 * (len(rows) - 1)
    hanging = indents[1] > indents[0] and len(set(indents[1:])) == 1 and len(rows) > 2
    groups = [[rows[0]]]
    for index in range(1, len(rows)):
        row, previous = rows[index], index - 1
        word = 2 if wide else len(row.split(None, 1)[0]) + 1
        goes_on = starts[index].islower() and not _TERMINAL.search(rows[previous])
        indented = indents[index] >= indents[previous] + 2 and not hanging
        if (indented and not goes_on) or _begins_item(row, rows[previous]):
            joined = False
        elif set_off:
            joined = prose
        elif reach[previous] + word > 0.88 * margin or starts[index].islower():
            joined = True
        else:
            joined = not wide and reach[previous] > 0.6 * margin and not _TERMINAL.search(rows[previous])
        if joined:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _begins_item(row: str, previous: str) -> bool:
    """Return whether a line begins a list item or follows a heading; a number begins one only after a finished line."""
    if _HEADING.match(previous):
        return True
    match = _LIST_ITEM.match(row)
    if not match:
        return False
    return not match.group().strip()[:1].isalnum() or bool(_TERMINAL.search(previous) or _LIST_ITEM.match(previous))


def join_lines(rows: str) -> str:
    """Return `rows` without the line ends in unspaced scripts and after a hyphen or dash; each remaining one is a
    space."""
    if "-\n" in rows or "—\n" in rows or "‐\n" in rows:
        rows = _HYPHENATED.sub("", rows)
    if not rows.isascii() and _UNSPACED_CHARACTER.search(rows):
        first, *others = rows.split("\n")
        if others:
            *middle, last = others
            inner = filter(None, map(str.strip, middle))
            rows = _SEAM.sub("", "\n".join([first.rstrip(), *inner, last.lstrip()]))
    return rows


def _tidy(text: str) -> list[str]:
    text = " ".join(text.split())
    if not text or (not text[0].isalnum() and _ORNAMENT.fullmatch(text)):
        return []
    return [text]


def _without_gutenberg(pieces: Iterator[str]) -> Iterator[str]:
    """Drop what lies outside Project Gutenberg's START and END lines, and the credits after START.

    A text without a START line near its beginning is kept from its first line. Of several books in one file, each with
    its own START and END lines, all are kept.
    """
    inside = True
    first = True
    for piece in pieces:
        text = piece
        if first:
            first = False
            inside = not (_START.search(text) or _SMALL_PRINT.search(text))
        while text:
            if inside:
                end = _END.search(text) if "utenberg" in text or "UTENBERG" in text else None
                if end is None:
                    yield text
                    break
                yield text[: end.start()]
                text = text[end.end() :]
                inside = False
            else:
                start = _START.search(text) or _SMALL_PRINT.search(text)
                if start is None:
                    break
                text = _without_credits(text, start)
                inside = True


def _without_credits(text: str, start: re.Match[str]) -> str:
    """Return the text after a START line (which may span several lines) without the "Produced by" blocks."""
    rest = text[start.end() :]
    if start.re is _START and not start.group().rstrip().endswith("***"):
        closing = re.match(r"[^\n]*(?:\n[^\n]+){0,2}\*{3}[ \t]*\n", rest)
        rest = rest[closing.end() :] if closing else rest
    while True:
        block, blank, after = _partition_blank(rest.lstrip("\n"))
        if not blank or not _CREDIT.match(block):
            return rest
        rest = after


def _partition_blank(text: str) -> tuple[str, str, str]:
    match = _BLANK.search(text)
    return (text[: match.start()], match.group(), text[match.end() :]) if match else (text, "", "")
